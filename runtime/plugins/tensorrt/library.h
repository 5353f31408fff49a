// TensorRT, or TensorRT-RTX: the same interface in two libraries, and the headers say which.
#pragma once

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <memory>
#include <mutex>
#include <string>

#include "cuda.h"
#include "engine_plugin.h"
#include "problem.h"

namespace clip_edge::plugin {

#if defined(TRT_MAJOR_RTX)
constexpr const char *kTitle = "TensorRT-RTX", *kLibrary = "libtensorrt_rtx.so", *kParser = "libtensorrt_onnxparser_rtx.so";
#else
constexpr const char *kTitle = "TensorRT", *kLibrary = "libnvinfer.so", *kParser = "libnvonnxparser.so";
#endif

// What the engine says. Warnings go to the app; the last error is kept for the message of the call that failed.
class Log : public nvinfer1::ILogger {
 public:
  explicit Log(clip_edge_plugin_log forward) : forward_(forward) {}
  void log(Severity severity, const char *text) noexcept override;
  std::string last_error();  // in one line; forgotten afterwards

 private:
  clip_edge_plugin_log forward_;
  std::mutex mutex_;
  std::string error_;
};

// The opened library with at most one GPU. Never closed: its threads may outlive any model.
class Library {
 public:
  Library(const char *libraries, int device, clip_edge_plugin_log log);

  const std::string &version() const { return version_; }  // "10.13.0.35"
  const Cuda *cuda() const { return cuda_.get(); }         // null: opened to build for other machines
  std::string failure(const std::string &what);            // "TensorRT 10.3.0.26 cannot WHAT: the reason"
  void forget_failure() { log_.last_error(); }             // of what was only tried: it explains nothing later

  std::unique_ptr<nvinfer1::IRuntime> runtime();
  std::unique_ptr<nvinfer1::IBuilder> builder();
  std::unique_ptr<nvonnxparser::IParser> parser(nvinfer1::INetworkDefinition &network);

 private:
  void *open(const char *name, int version) const;

  std::string folder_;
  Log log_;
  void *handle_;
  std::string version_;
  std::unique_ptr<Cuda> cuda_;
};

class Tower;
Tower *open_tower(Library &library, const clip_edge_plugin_graph &graph, const void *bytes, size_t size);
void close_tower(Tower *tower) noexcept;
void run_tower(Tower &tower, const void *input, size_t rows, float *out);

void build(Library &library, const clip_edge_plugin_graph &graph, const void *onnx, size_t size, const char *capability,
           clip_edge_plugin_sink sink, void *user);

// (count, row...) as TensorRT's own type; -1 stands for any.
nvinfer1::Dims shape_of(const clip_edge_plugin_graph &graph, int64_t count);

}  // namespace clip_edge::plugin
