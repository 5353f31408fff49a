#include "cuda.h"

#include <dlfcn.h>

#include <cstring>

#include "problem.h"

namespace clip_edge::plugin {
namespace {

// Of cuda.h.
constexpr int kComputeMajor = 75, kComputeMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
constexpr int kOutOfMemory = 2;
constexpr int kThreadLocal = 1;  // CU_STREAM_CAPTURE_MODE_*: what other threads do meanwhile does not spoil a capture
constexpr unsigned kNonBlocking = 1;  // does not wait for other people's work on the default stream

template <class Function>
Function find(void *library, const char *name) {
  void *symbol = dlsym(library, name);
  if (symbol == nullptr) fail(std::string("the NVIDIA driver has no function ") + name);
  Function function;
  std::memcpy(&function, &symbol, sizeof(function));
  return function;
}

}  // namespace

template <class... Arguments>
void Cuda::call(const char *function, Arguments... arguments) const {
  const int status = find<int (*)(Arguments...)>(driver_, function)(arguments...);
  if (status == 0) return;
  const char *text = nullptr;
  find<int (*)(int, const char **)>(driver_, "cuGetErrorString")(status, &text);
  fail(std::string("the GPU cannot be used: ") + function + " says `" + (text == nullptr ? "unknown" : text) + "` (" +
           std::to_string(status) + ")",
       status == kOutOfMemory ? CLIP_EDGE_ERROR_OUT_OF_MEMORY : CLIP_EDGE_ERROR_BACKEND);
}

Cuda::Cuda(int device) : driver_(dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {
  if (driver_ == nullptr)
    fail("no NVIDIA driver here (libcuda.so.1): run this on a machine with an NVIDIA GPU; `nvidia-smi` says what is there");
  call("cuInit", 0U);
  int count = 0, handle = 0, major = 0, minor = 0;
  call("cuDeviceGetCount", &count);
  if (device >= count)
    fail("no GPU number " + std::to_string(device) + ": this machine has " + std::to_string(count));
  call("cuDeviceGet", &handle, device);
  call("cuDevicePrimaryCtxRetain", &context_, handle);
  char name[256] = "";
  call("cuDeviceGetName", static_cast<char *>(name), static_cast<int>(sizeof(name)), handle);
  call("cuDeviceGetAttribute", &major, kComputeMajor, handle);
  call("cuDeviceGetAttribute", &minor, kComputeMinor, handle);
  name_ = name;
  capability_ = "sm" + std::to_string(major) + std::to_string(minor);
}

void Cuda::use() const { call("cuCtxSetCurrent", context_); }

CUstream_st *Cuda::new_stream() const {
  CUstream_st *stream = nullptr;
  call("cuStreamCreate", &stream, kNonBlocking);
  return stream;
}

void Cuda::free_stream(CUstream_st *stream) const { call("cuStreamDestroy_v2", stream); }

uint64_t Cuda::allocate(size_t bytes) const {
  uint64_t address = 0;
  call("cuMemAlloc_v2", &address, bytes);
  return address;
}

void Cuda::free(uint64_t address) const { call("cuMemFree_v2", address); }

void Cuda::to_device(uint64_t address, const void *from, size_t bytes, CUstream_st *stream) const {
  call("cuMemcpyHtoDAsync_v2", address, from, bytes, stream);
}

void Cuda::to_host(void *to, uint64_t address, size_t bytes, CUstream_st *stream) const {
  call("cuMemcpyDtoHAsync_v2", to, address, bytes, stream);
}

void Cuda::wait(CUstream_st *stream) const { call("cuStreamSynchronize", stream); }

void Cuda::begin_capture(CUstream_st *stream) const { call("cuStreamBeginCapture_v2", stream, kThreadLocal); }

CUgraphExec_st *Cuda::end_capture(CUstream_st *stream) const {
  void *graph = nullptr;
  CUgraphExec_st *made = nullptr;
  call("cuStreamEndCapture", stream, &graph);
  try {
    call("cuGraphInstantiateWithFlags", &made, graph, 0ULL);
  } catch (...) {
    call("cuGraphDestroy", graph);
    throw;
  }
  call("cuGraphDestroy", graph);
  return made;
}

void Cuda::launch(CUgraphExec_st *graph, CUstream_st *stream) const { call("cuGraphLaunch", graph, stream); }

void Cuda::free_graph(CUgraphExec_st *graph) const { call("cuGraphExecDestroy", graph); }

}  // namespace clip_edge::plugin
