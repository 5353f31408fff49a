// From a strongly typed ONNX graph to an engine, as clip_edge/runtime/tensorrt/builder.py makes it.
#include <cstdlib>

#include "library.h"

namespace clip_edge::plugin {
namespace {

// Every network of ours is strongly typed; where nothing else is left, the flag is marked as out of date.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
constexpr uint32_t kStronglyTyped =
    1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#pragma GCC diagnostic pop

void parse(Library &library, nvonnxparser::IParser &parser, const nvinfer1::INetworkDefinition &network,
           const std::string &path, const void *onnx, size_t size) {
  const bool parsed = parser.parse(onnx, size);
  if (parsed && network.getNbLayers() > 0) return;  // no bytes are a valid, empty graph
  if (parser.getNbErrors() == 0) fail(library.failure("parse " + path), CLIP_EDGE_ERROR_FORMAT);
  const nvonnxparser::IParserError *error = parser.getError(0);
  const char *node = error->nodeName();
  fail(std::string(kTitle) + " " + library.version() + " cannot parse " + path +
           (node == nullptr || *node == '\0' ? "" : std::string(" at node `") + node + "`") + ": " +
           std::string(error->desc()).substr(0, 300),
       CLIP_EDGE_ERROR_FORMAT);
}

bool has(const nvinfer1::ITensor &tensor, const char *name, nvinfer1::DataType type, const nvinfer1::Dims &shape) {
  const nvinfer1::Dims found = tensor.getDimensions();
  bool same = found.nbDims == shape.nbDims && tensor.getType() == type && std::string(tensor.getName()) == name;
  for (int32_t i = 0; same && i < shape.nbDims; i++) same = found.d[i] == shape.d[i];
  return same;
}

// The parsed network's one input and one output against the plan.
void check(const nvinfer1::INetworkDefinition &network, const clip_edge_plugin_graph &graph) {
  nvinfer1::Dims output{};
  output.nbDims = 2, output.d[0] = -1, output.d[1] = graph.dim;
  const auto type = graph.ids != 0 ? nvinfer1::DataType::kINT32 : nvinfer1::DataType::kFLOAT;
  if (network.getNbInputs() != 1 || network.getNbOutputs() != 1 ||
      !has(*network.getInput(0), graph.input, type, shape_of(graph, -1)) ||
      !has(*network.getOutput(0), graph.output, nvinfer1::DataType::kFLOAT, output))
    fail(std::string(graph.path) + " has other inputs or outputs than build.json says", CLIP_EDGE_ERROR_FORMAT);
}

#if defined(TRT_MAJOR_RTX)
void set_capability(nvinfer1::IBuilderConfig &config, const std::string &name) {
  const bool known = name.compare(0, 2, "sm") == 0 && name.size() <= 5;
  const int number = known ? std::atoi(name.c_str() + 2) : 0;
  if (number <= 0 || !config.setNbComputeCapabilities(1) ||
      !config.setComputeCapability(static_cast<nvinfer1::ComputeCapability>(number), 0))
    fail(std::string(kTitle) + " builds for no compute capability `" + name + "`; such as sm89 expected",
         CLIP_EDGE_ERROR_INVALID_ARGUMENT);
}
#else
void set_capability(nvinfer1::IBuilderConfig &, const std::string &) {
  fail(std::string(kTitle) + " builds for the GPU of this machine only: name no capability, or take tensorrt-rtx",
       CLIP_EDGE_ERROR_INVALID_ARGUMENT);
}
#endif

}  // namespace

void build(Library &library, const clip_edge_plugin_graph &graph, const void *onnx, size_t size, const char *capability,
           clip_edge_plugin_sink sink, void *user) {
  const std::string path = graph.path;
  if (library.cuda() != nullptr) library.cuda()->use();
  const std::unique_ptr<nvinfer1::IBuilder> builder = library.builder();
  const std::unique_ptr<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(kStronglyTyped));
  const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
  if (network == nullptr || config == nullptr) fail(library.failure("build " + path));
  if (capability != nullptr) set_capability(*config, capability);
  const std::unique_ptr<nvonnxparser::IParser> parser = library.parser(*network);
  parse(library, *parser, *network, path, onnx, size);
  check(*network, graph);
  config->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, static_cast<size_t>(graph.workspace_bytes));
  config->setBuilderOptimizationLevel(graph.optimization_level);
  config->setProfilingVerbosity(nvinfer1::ProfilingVerbosity::kDETAILED);
  if (graph.tf32 == 0) config->clearFlag(nvinfer1::BuilderFlag::kTF32);  // else fp32 is rounded to 10 bits
  for (int32_t i = 0; i < graph.profile_count; i++) {
    const clip_edge_plugin_profile &batches = graph.profiles[i];
    nvinfer1::IOptimizationProfile *profile = builder->createOptimizationProfile();  // the builder's own
    using Select = nvinfer1::OptProfileSelector;
    profile->setDimensions(graph.input, Select::kMIN, shape_of(graph, batches.least));
    profile->setDimensions(graph.input, Select::kOPT, shape_of(graph, batches.best));
    profile->setDimensions(graph.input, Select::kMAX, shape_of(graph, batches.most));
    if (config->addOptimizationProfile(profile) != i) fail(library.failure("take the profiles of " + path));
  }
  const std::unique_ptr<nvinfer1::IHostMemory> engine(builder->buildSerializedNetwork(*network, *config));
  if (engine == nullptr) fail(library.failure("build " + path));
  sink(user, engine->data(), engine->size());
}

}  // namespace clip_edge::plugin
