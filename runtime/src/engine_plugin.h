/* Between libclip_edge and a plug-in that runs an engine whose interface is C++ (TensorRT, TensorRT-RTX). A plug-in is
 * compiled with that engine's own headers, opened at run time, and exports one function. C99, so that neither side
 * needs the other's compiler: no exception crosses, and each frees what it made. */
#ifndef CLIP_EDGE_ENGINE_PLUGIN_H
#define CLIP_EDGE_ENGINE_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLIP_EDGE_PLUGIN_ABI 1
#define CLIP_EDGE_PLUGIN_FUNCTION "clip_edge_plugin_get"

typedef struct clip_edge_plugin_error {
  int32_t status;  /* a clip_edge_status */
  char text[1000]; /* ends with a zero byte */
} clip_edge_plugin_error;

/* What the plug-in found; all texts end with a zero byte. */
typedef struct clip_edge_plugin_facts {
  char version[32];    /* of the engine's library: "10.13.0.35" */
  char device[256];    /* "NVIDIA GeForce RTX 4090"; empty without a GPU */
  char capability[16]; /* "sm89"; empty without a GPU */
} clip_edge_plugin_facts;

/* The batches that a set of kernels is for: allowed from `least` to `most`, quickest at `best`. */
typedef struct clip_edge_plugin_profile {
  int32_t least, best, most;
} clip_edge_plugin_profile;

/* One tower: rows of `row_shape` under the name `input` become `dim` floats under the name `output`. */
typedef struct clip_edge_plugin_graph {
  const char *path, *input, *output; /* `path` stands in messages */
  int32_t ids;                       /* 1: int32 token ids go in; 0: floats */
  int32_t rank;                      /* of a row: 1 or 3 */
  int64_t row_shape[3];
  int32_t dim;
  int32_t profile_count;
  const clip_edge_plugin_profile *profiles;
  int64_t workspace_bytes;
  int32_t optimization_level;
  int32_t tf32; /* 0: fp32 products are not rounded to TF32 */
} clip_edge_plugin_graph;

typedef void (*clip_edge_plugin_log)(int32_t level, const char *text); /* a clip_edge_log_level */
typedef void (*clip_edge_plugin_sink)(void *user, const void *bytes, size_t size);

/* Functions that return a pointer or a status fill `error` where they return NULL or not 0. */
typedef struct clip_edge_plugin {
  uint32_t abi; /* CLIP_EDGE_PLUGIN_ABI of the header that the plug-in was compiled with */
  const char *title;
  /* The engine on GPU number `device` (-1: none, only to build). `libraries`: the folder of its shared libraries, or
   * NULL. It lives as long as the process. */
  void *(*open)(const char *libraries, int32_t device, clip_edge_plugin_log log, clip_edge_plugin_facts *facts,
                clip_edge_plugin_error *error);
  /* A tower from the bytes of an engine, which hold machine code: their hash was checked. */
  void *(*open_tower)(void *engine, const clip_edge_plugin_graph *graph, const void *bytes, size_t size,
                      clip_edge_plugin_error *error);
  void (*close_tower)(void *tower);
  /* `rows` input rows -> rows * dim floats. Any thread may call it. */
  int32_t (*run)(void *tower, const void *input, size_t rows, float *out, clip_edge_plugin_error *error);
  /* The engine of an ONNX graph, given to `sink` once; `capability` NULL: for the opened GPU. */
  int32_t (*build)(void *engine, const clip_edge_plugin_graph *graph, const void *onnx, size_t size,
                   const char *capability, clip_edge_plugin_sink sink, void *user, clip_edge_plugin_error *error);
} clip_edge_plugin;

typedef const clip_edge_plugin *(*clip_edge_plugin_get_function)(void);

#ifdef __cplusplus
}
#endif
#endif
