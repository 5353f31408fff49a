// What the plug-in does with the driver, on the simulated one: copies, a CUDA graph, a capture that fails, errors.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "cuda.h"
#include "problem.h"

using clip_edge::plugin::Cuda;
using clip_edge::plugin::Problem;

namespace {

void require(bool holds, const char *what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::exit(1);
}

void twice(void *floats) {
  for (int i = 0; i < 4; i++) static_cast<float *>(floats)[i] *= 2;
}

}  // namespace

int main() {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  require(driver != nullptr, "the simulated driver opens");
  const auto enqueue = reinterpret_cast<int (*)(CUstream_st *, void (*)(void *), void *)>(dlsym(driver, "enqueue"));
  const auto number = [&](const char *name) { return static_cast<int *>(dlsym(driver, name)); };

  const Cuda cuda(0);
  cuda.use();
  require(cuda.name() == "Simulated GPU 0" && cuda.capability() == "sm87", "the GPU is named");
  CUstream_st *stream = cuda.new_stream();
  const uint64_t address = cuda.allocate(16);
  float given[4] = {1, 2, 3, 4}, found[4] = {0, 0, 0, 0};

  cuda.begin_capture(stream);
  enqueue(stream, twice, reinterpret_cast<void *>(address));
  CUgraphExec_st *graph = cuda.end_capture(stream);
  for (int turn = 1; turn <= 3; turn++) {
    cuda.to_device(address, given, sizeof(given), stream);
    cuda.launch(graph, stream);
    cuda.to_host(found, address, sizeof(found), stream);
    cuda.wait(stream);
    require(found[3] == 8 && *number("launches") == turn, "the graph runs once for every launch");
  }

  *number("refuse_capture") = 1;
  cuda.begin_capture(stream);
  require(enqueue(stream, twice, nullptr) != 0, "a layer cannot be captured");
  bool refused = false;
  try {
    cuda.end_capture(stream);
  } catch (const Problem &problem) {
    refused = problem.text.find("cuStreamEndCapture says") != std::string::npos;
  }
  require(refused, "a spoiled capture is an error");
  cuda.wait(stream);  // and the stream goes on

  bool full = false;
  try {
    cuda.allocate(size_t{1} << 40);
  } catch (const Problem &problem) {
    full = problem.status == CLIP_EDGE_ERROR_OUT_OF_MEMORY;
  }
  require(full, "a full GPU is said");
  cuda.free_graph(graph);
  cuda.free(address);
  cuda.free_stream(stream);
  require(*number("live") == 0, "everything is given back");
  return 0;
}
