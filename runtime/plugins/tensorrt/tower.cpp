// A deserialised engine that embeds batches: its own stream, its own buffers, one caller at a time. As in
// clip_edge/runtime/tensorrt/engine.py a batch of one is launched as a CUDA graph, which TensorRT-RTX makes by itself.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "library.h"

namespace clip_edge::plugin {

class Tower {
 public:
  Tower(Library &library, const clip_edge_plugin_graph &graph, const void *bytes, size_t size)
      : library_(library),
        cuda_(*library.cuda()),
        path_(graph.path),
        input_(graph.input),
        output_(graph.output),
        graph_(graph),
        profiles_(graph.profiles, graph.profiles + graph.profile_count) {
    row_items_ = 1;
    for (int32_t i = 0; i < graph.rank; i++) row_items_ *= static_cast<size_t>(graph.row_shape[i]);
    for (const clip_edge_plugin_profile &profile : profiles_)
      most_ = std::max(most_, static_cast<size_t>(profile.most));
    cuda_.use();
    runtime_ = library.runtime();
    engine_.reset(runtime_->deserializeCudaEngine(bytes, size));
    if (engine_ == nullptr) fail(library.failure("load the engine of " + path_));
    check_tensors();
    stream_ = cuda_.new_stream();
    try {
      for (size_t i = 0; i < profiles_.size(); i++) add_context(static_cast<int32_t>(i));
      on_device_in_ = cuda_.allocate(most_ * row_items_ * kItemBytes);
      on_device_out_ = cuda_.allocate(most_ * static_cast<size_t>(graph_.dim) * kItemBytes);
    } catch (...) {
      release();
      throw;
    }
  }
  ~Tower() { release(); }
  Tower(const Tower &) = delete;
  Tower &operator=(const Tower &) = delete;

  void run(const void *input, size_t rows, float *out) {
    const std::lock_guard<std::mutex> lock(mutex_);
    cuda_.use();
    const char *from = static_cast<const char *>(input);
    for (size_t start = 0; start < rows; start += most_)
      run_part(from + start * row_items_ * kItemBytes, std::min(most_, rows - start),
               out + start * static_cast<size_t>(graph_.dim));
  }

 private:
  static constexpr size_t kItemBytes = 4;  // of int32 and float
#if defined(TRT_MAJOR_RTX)
  static constexpr bool kCaptures = false;  // it does so itself
#else
  static constexpr bool kCaptures = true;
#endif

  struct Captured {  // of one profile
    bool tried = false;
    CUgraphExec_st *graph = nullptr;
  };

  nvinfer1::IExecutionContext *new_context() const {
#if defined(TRT_MAJOR_RTX)
    const std::unique_ptr<nvinfer1::IRuntimeConfig> settings(engine_->createRuntimeConfig());
    if (settings == nullptr || !settings->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE))
      fail(library_.failure("prepare " + path_));
    return engine_->createExecutionContext(settings.get());
#else
    return engine_->createExecutionContext();
#endif
  }

  void add_context(int32_t profile) {
    contexts_.emplace_back(new_context());
    captured_.emplace_back();
    if (contexts_.back() == nullptr || !contexts_.back()->setOptimizationProfileAsync(profile, stream_))
      fail(library_.failure("prepare " + path_));
    cuda_.wait(stream_);
  }

  // Of the profiles that allow the batch, the one whose best batch is nearest.
  size_t profile_for(size_t rows) const {
    const auto wanted = static_cast<int32_t>(rows);
    size_t found = profiles_.size();
    for (size_t i = 0; i < profiles_.size(); i++) {
      if (wanted < profiles_[i].least || wanted > profiles_[i].most) continue;
      if (found == profiles_.size() || std::abs(profiles_[i].best - wanted) < std::abs(profiles_[found].best - wanted))
        found = i;
    }
    if (found == profiles_.size()) fail("no profile of the engine of " + path_ + " allows a batch of " + std::to_string(rows));
    return found;
  }

  void run_part(const void *input, size_t rows, float *out) {
    cuda_.to_device(on_device_in_, input, rows * row_items_ * kItemBytes, stream_);
    launch(profile_for(rows), rows);
    cuda_.to_host(out, on_device_out_, rows * static_cast<size_t>(graph_.dim) * kItemBytes, stream_);
    cuda_.wait(stream_);
  }

  // The layers, on the stream. Only where a profile has one batch size does nothing that was captured change.
  void launch(size_t profile, size_t rows) {
    Captured &captured = captured_[profile];
    if (captured.graph != nullptr) return cuda_.launch(captured.graph, stream_);
    nvinfer1::IExecutionContext &context = *contexts_[profile];
    context.setInputShape(input_.c_str(), shape_of(graph_, static_cast<int64_t>(rows)));
    context.setTensorAddress(input_.c_str(), reinterpret_cast<void *>(on_device_in_));
    context.setTensorAddress(output_.c_str(), reinterpret_cast<void *>(on_device_out_));
    if (!context.enqueueV3(stream_)) {
      cuda_.wait(stream_);
      fail(library_.failure("run " + path_));
    }
    if (kCaptures && profiles_[profile].least == profiles_[profile].most && !captured.tried) {
      captured.tried = true;  // a layer that cannot be captured never can
      captured.graph = capture(context);
    }
  }

  // The layers as a CUDA graph, not run; null where one of them cannot be captured. The first call has loaded the
  // kernels.
  CUgraphExec_st *capture(nvinfer1::IExecutionContext &context) {
    CUgraphExec_st *graph = nullptr;
    cuda_.begin_capture(stream_);
    const bool recorded = context.enqueueV3(stream_);
    try {
      graph = cuda_.end_capture(stream_);  // after a failure, too: it ends the capture
    } catch (const Problem &) {
    }
    if (graph != nullptr && !recorded) {
      cuda_.free_graph(graph);
      graph = nullptr;
    }
    if (graph == nullptr) library_.forget_failure();
    return graph;
  }

  // One input and one output of the names, types and shapes that the plan says.
  void check_tensors() const {
    nvinfer1::Dims output{};
    output.nbDims = 2, output.d[0] = -1, output.d[1] = graph_.dim;
    const auto type = graph_.ids != 0 ? nvinfer1::DataType::kINT32 : nvinfer1::DataType::kFLOAT;
    const bool fits = engine_->getNbIOTensors() == 2 && input_ == engine_->getIOTensorName(0) &&
                      output_ == engine_->getIOTensorName(1) && has(input_, shape_of(graph_, -1), type) &&
                      has(output_, output, nvinfer1::DataType::kFLOAT) &&
                      engine_->getNbOptimizationProfiles() == graph_.profile_count;
    if (!fits)
      fail("the engine of " + path_ + " has other inputs, outputs or profiles than build.json says",
           CLIP_EDGE_ERROR_FORMAT);
  }

  bool has(const std::string &tensor, const nvinfer1::Dims &shape, nvinfer1::DataType type) const {
    const nvinfer1::Dims found = engine_->getTensorShape(tensor.c_str());
    return found.nbDims == shape.nbDims && std::equal(found.d, found.d + found.nbDims, shape.d) &&
           engine_->getTensorDataType(tensor.c_str()) == type;
  }

  void release() noexcept {
    try {
      cuda_.use();
      for (const Captured &captured : captured_)
        if (captured.graph != nullptr) cuda_.free_graph(captured.graph);
      contexts_.clear();
      if (on_device_in_ != 0) cuda_.free(on_device_in_);
      if (on_device_out_ != 0) cuda_.free(on_device_out_);
      if (stream_ != nullptr) cuda_.free_stream(stream_);
    } catch (const Problem &) {  // the GPU is gone, and with it what it held
    }
  }

  Library &library_;
  const Cuda &cuda_;
  std::string path_, input_, output_;
  clip_edge_plugin_graph graph_;  // its pointers are the caller's: only the numbers are used
  std::vector<clip_edge_plugin_profile> profiles_;
  size_t row_items_ = 1, most_ = 1;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;
  std::vector<Captured> captured_;
  CUstream_st *stream_ = nullptr;
  uint64_t on_device_in_ = 0, on_device_out_ = 0;
  std::mutex mutex_;
};

Tower *open_tower(Library &library, const clip_edge_plugin_graph &graph, const void *bytes, size_t size) {
  return new Tower(library, graph, bytes, size);
}

void close_tower(Tower *tower) noexcept { delete tower; }

void run_tower(Tower &tower, const void *input, size_t rows, float *out) { tower.run(input, rows, out); }

}  // namespace clip_edge::plugin
