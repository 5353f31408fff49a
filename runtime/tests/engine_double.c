/* A plug-in whose engine is no engine: the library's side of engine_plugin.h is tested with it where there is no GPU.
 * A row's embedding is its first item, then how many rows came with it, then zeros. */
#include <stdio.h>
#include <string.h>

#include "clip_edge/clip_edge.h"
#include "engine_plugin.h"

#ifndef DOUBLE_ABI
#define DOUBLE_ABI CLIP_EDGE_PLUGIN_ABI
#endif

typedef struct tower {
  int used, ids, dim;
  size_t row_items;
} tower;

static tower towers[16];

static int32_t refuse(clip_edge_plugin_error *error, clip_edge_status status, const char *text) {
  error->status = status;
  snprintf(error->text, sizeof(error->text), "%s", text);
  return 1;
}

static void *open_engine(const char *libraries, int32_t device, clip_edge_plugin_log log, clip_edge_plugin_facts *facts,
                         clip_edge_plugin_error *error) {
  static int engine;
  if (libraries != NULL && strcmp(libraries, "nowhere") == 0)
    return refuse(error, CLIP_EDGE_ERROR_BACKEND, "the double cannot be opened: nothing in nowhere"), NULL;
  log(CLIP_EDGE_LOG_WARNING, "this is a double");
  snprintf(facts->version, sizeof(facts->version), "9.8.7.6");
  if (device >= 0) {
    snprintf(facts->device, sizeof(facts->device), "Double \"%d\"", (int)device);
    snprintf(facts->capability, sizeof(facts->capability), "sm89");
  }
  return &engine;
}

static void *open_tower(void *engine, const clip_edge_plugin_graph *graph, const void *bytes, size_t size,
                        clip_edge_plugin_error *error) {
  const char *start = "double of ";
  (void)engine;
  if (size != strlen(start) + strlen(graph->path) || memcmp(bytes, start, strlen(start)) != 0)
    return refuse(error, CLIP_EDGE_ERROR_BACKEND, "the double cannot load this engine"), NULL;
  for (size_t i = 0; i < sizeof(towers) / sizeof(towers[0]); i++) {
    if (towers[i].used) continue;
    towers[i].used = 1, towers[i].ids = graph->ids, towers[i].dim = graph->dim, towers[i].row_items = 1;
    for (int side = 0; side < graph->rank; side++) towers[i].row_items *= (size_t)graph->row_shape[side];
    return &towers[i];
  }
  return refuse(error, CLIP_EDGE_ERROR_OUT_OF_MEMORY, "too many towers"), NULL;
}

static void close_tower(void *handle) { ((tower *)handle)->used = 0; }

static int32_t run(void *handle, const void *input, size_t rows, float *out, clip_edge_plugin_error *error) {
  const tower *one = handle;
  memset(out, 0, rows * (size_t)one->dim * sizeof(float));
  for (size_t row = 0; row < rows; row++) {
    const size_t first = row * one->row_items;
    float *to = out + row * (size_t)one->dim;
    to[0] = one->ids ? (float)((const int32_t *)input)[first] : ((const float *)input)[first];
    to[1] = (float)rows;
    if (one->ids && ((const int32_t *)input)[first + 1] == 13)
      return refuse(error, CLIP_EDGE_ERROR_BACKEND, "the double refuses this row");
  }
  return 0;
}

static int32_t build(void *engine, const clip_edge_plugin_graph *graph, const void *onnx, size_t size,
                     const char *capability, clip_edge_plugin_sink sink, void *user, clip_edge_plugin_error *error) {
  char text[512];
  (void)engine, (void)onnx;
  if (capability != NULL && strcmp(capability, "sm1") == 0)
    return refuse(error, CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the double builds for no compute capability `sm1`");
  if (size == 0 || graph->profile_count < 1 || graph->workspace_bytes < 1)
    return refuse(error, CLIP_EDGE_ERROR_INTERNAL, "an empty graph");
  const int length = snprintf(text, sizeof(text), "double of %s", graph->path);
  sink(user, text, (size_t)length);
  return 0;
}

__attribute__((visibility("default"))) const clip_edge_plugin *clip_edge_plugin_get(void) {
  static const clip_edge_plugin plugin = {DOUBLE_ABI, "Double", open_engine, open_tower, close_tower, run, build};
  return &plugin;
}
