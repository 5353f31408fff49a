// The few functions of the CUDA driver that running an engine takes: a stable C interface, opened at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;
struct CUgraphExec_st;

namespace clip_edge::plugin {

// One GPU with its primary context, which TensorRT uses too. Everything throws Problem.
class Cuda {
 public:
  explicit Cuda(int device);

  const std::string &name() const { return name_; }
  const std::string &capability() const { return capability_; }

  void use() const;  // makes the GPU current for the calling thread
  CUstream_st *new_stream() const;
  void free_stream(CUstream_st *stream) const;
  uint64_t allocate(size_t bytes) const;
  void free(uint64_t address) const;
  // The copied memory must live until the stream is waited for.
  void to_device(uint64_t address, const void *from, size_t bytes, CUstream_st *stream) const;
  void to_host(void *to, uint64_t address, size_t bytes, CUstream_st *stream) const;
  void wait(CUstream_st *stream) const;
  // A CUDA graph: work that was put on a stream in between, not done, and done by one call of `launch`.
  void begin_capture(CUstream_st *stream) const;
  CUgraphExec_st *end_capture(CUstream_st *stream) const;
  void launch(CUgraphExec_st *graph, CUstream_st *stream) const;
  void free_graph(CUgraphExec_st *graph) const;

 private:
  template <class... Arguments>
  void call(const char *function, Arguments... arguments) const;

  void *driver_;
  void *context_ = nullptr;
  std::string name_, capability_;
};

}  // namespace clip_edge::plugin
