/* clip-edge: the same embedding on the device as in training. C99, no dependency but the C library.
 *
 * Every function that can fail returns a status, and leaves a text in clip_edge_last_error() of the same thread.
 * Nothing is printed, nothing ends the process, no exception leaves the library. Strings are UTF-8.
 * Structures carry their size: fill them with their `_init` function, then set what differs.
 */
#ifndef CLIP_EDGE_CLIP_EDGE_H
#define CLIP_EDGE_CLIP_EDGE_H

#include <stddef.h>
#include <stdint.h>

#if defined(CLIP_EDGE_STATIC)
#define CLIP_EDGE_API
#elif defined(_WIN32)
#ifdef CLIP_EDGE_BUILDING
#define CLIP_EDGE_API __declspec(dllexport)
#else
#define CLIP_EDGE_API __declspec(dllimport)
#endif
#else
#define CLIP_EDGE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when something is added; the major version of the library grows when something is changed. */
#define CLIP_EDGE_ABI_VERSION 1

typedef enum clip_edge_status {
  CLIP_EDGE_OK = 0,
  CLIP_EDGE_ERROR_INVALID_ARGUMENT = 1, /* a null pointer, a negative size, an unknown option */
  CLIP_EDGE_ERROR_IO = 2,               /* a file cannot be read */
  CLIP_EDGE_ERROR_FORMAT = 3,           /* a file is damaged, hostile, or not what it says */
  CLIP_EDGE_ERROR_VERSION = 4,          /* written by, or for, another version */
  CLIP_EDGE_ERROR_BACKEND = 5,          /* the engine is missing or refused the graph */
  CLIP_EDGE_ERROR_OUT_OF_MEMORY = 6,
  CLIP_EDGE_ERROR_BUFFER_TOO_SMALL = 7, /* the text names the size that is needed */
  CLIP_EDGE_ERROR_ABORTED = 8,          /* the abort callback said so */
  CLIP_EDGE_ERROR_UNSUPPORTED = 9,      /* valid, but this build cannot do it */
  CLIP_EDGE_ERROR_INTERNAL = 10,
  CLIP_EDGE_ERROR_VERIFICATION = 11, /* the model runs, and its numbers are wrong */
  CLIP_EDGE_ERROR_PICTURE = 12,      /* a JPEG or PNG is missing, damaged, too large, or something else */
  CLIP_EDGE_ERROR_DECODER = 13       /* the library that decodes JPEG or PNG is not on this machine */
} clip_edge_status;

/* "ok", "invalid argument", ... ; never NULL. */
CLIP_EDGE_API const char *clip_edge_status_name(clip_edge_status status);
/* What went wrong in the last failed call of this thread; never NULL, valid until the thread's next call. */
CLIP_EDGE_API const char *clip_edge_last_error(void);
/* "0.1.0" */
CLIP_EDGE_API const char *clip_edge_version(void);
CLIP_EDGE_API uint32_t clip_edge_abi_version(void);
/* Engines that this build can use, separated by commas. They are looked for when a model first needs them. */
CLIP_EDGE_API const char *clip_edge_backends(void);

/* --- log ------------------------------------------------------------------------------------------------ */

typedef enum clip_edge_log_level {
  CLIP_EDGE_LOG_INFO = 0,
  CLIP_EDGE_LOG_WARNING = 1,
  CLIP_EDGE_LOG_ERROR = 2
} clip_edge_log_level;

/* May be called from any thread, one call at a time; must not call the library. */
typedef void (*clip_edge_log_function)(clip_edge_log_level level, const char *text, void *user);

/* Where the engine's warnings go. Without a function, and at the start, nowhere. */
CLIP_EDGE_API void clip_edge_log_set(clip_edge_log_function function, void *user);

/* --- pictures --------------------------------------------------------------------------------------------- */

typedef enum clip_edge_pixel_format {
  CLIP_EDGE_PIXELS_RGB = 0, /* 3 bytes a pixel in plane[0] */
  CLIP_EDGE_PIXELS_BGR = 1,
  CLIP_EDGE_PIXELS_RGBA = 2, /* straight alpha, laid over white */
  CLIP_EDGE_PIXELS_BGRA = 3,
  CLIP_EDGE_PIXELS_GREY = 4,
  CLIP_EDGE_PIXELS_NV12 = 5, /* plane[0] luma; plane[1] U,V pairs for 2x2 pixels */
  CLIP_EDGE_PIXELS_NV21 = 6, /* the same with V,U pairs */
  CLIP_EDGE_PIXELS_I420 = 7, /* plane[0] luma, plane[1] U, plane[2] V */
  /* Not decoded yet: JPEG or PNG, of at most 100 million pixels. Size, colours and orientation are the file's own. */
  CLIP_EDGE_PIXELS_ENCODED = 8, /* `encoded_bytes` bytes in plane[0] */
  CLIP_EDGE_PIXELS_FILE = 9     /* the regular file at `path`, read during the call */
} clip_edge_pixel_format;

/* How JPEG is decoded. */
typedef enum clip_edge_decoding {
  CLIP_EDGE_DECODE_FAST = 0, /* a picture much larger than what the model reads is decoded at 1/2, 1/4 or 1/8 */
  CLIP_EDGE_DECODE_EXACT = 1 /* every pixel, as Pillow does */
} clip_edge_decoding;

/* How NV12, NV21 and I420 become RGB. Chroma is repeated, not smoothed. */
typedef enum clip_edge_yuv {
  CLIP_EDGE_YUV_BT601_FULL = 0,    /* JPEG and most phone cameras: 0..255 */
  CLIP_EDGE_YUV_BT601_LIMITED = 1, /* SD video: luma 16..235, chroma 16..240 */
  CLIP_EDGE_YUV_BT709_LIMITED = 2  /* HD video */
} clip_edge_yuv;

/* A picture in the caller's memory; it is only read, and only during the call. */
typedef struct clip_edge_image {
  uint32_t struct_size;
  int32_t width, height; /* as stored, before the orientation is applied; each 1..65535; not used where encoded */
  clip_edge_pixel_format format;
  const uint8_t *plane[3];
  int32_t stride[3];   /* bytes from one row to the next; 0: rows lie side by side */
  int32_t orientation; /* EXIF value 1..8; 1 is upright */
  clip_edge_yuv yuv;
  clip_edge_decoding decoding; /* this and what follows: of encoded pictures only */
  const char *path;
  size_t encoded_bytes;
} clip_edge_image;

/* Upright RGB with packed rows and no pixels yet. Pass sizeof(clip_edge_image), here and in the other `_init`. */
CLIP_EDGE_API void clip_edge_image_init(clip_edge_image *image, size_t struct_size);

typedef enum clip_edge_resize {
  CLIP_EDGE_RESIZE_SHORTEST = 0,      /* the shorter side becomes `size`, then the centre is cropped */
  CLIP_EDGE_RESIZE_SQUASH = 1,        /* both sides become `size`, whatever the aspect ratio */
  CLIP_EDGE_RESIZE_SHORTEST_FLOOR = 2 /* as SHORTEST, an odd margin rounded down instead of half to even */
} clip_edge_resize;

typedef enum clip_edge_interpolation {
  CLIP_EDGE_BILINEAR = 0, /* both antialiased, as Pillow's */
  CLIP_EDGE_BICUBIC = 1
} clip_edge_interpolation;

/* What a model expects of a picture. */
typedef struct clip_edge_preprocess_spec {
  uint32_t struct_size;
  int32_t size; /* side of the square that the model reads, 1..4096 */
  clip_edge_resize resize;
  clip_edge_interpolation interpolation;
  float mean[3], std[3]; /* of RGB scaled to 0..1 */
} clip_edge_preprocess_spec;

/* Size 224, shortest, bicubic, mean 0, std 1. */
CLIP_EDGE_API void clip_edge_preprocess_spec_init(clip_edge_preprocess_spec *spec, size_t struct_size);

/* Resized, cropped, upright RGB bytes: size * size * 3, row by row. Equal to Pillow's bytes. */
CLIP_EDGE_API clip_edge_status clip_edge_resize_image(const clip_edge_preprocess_spec *spec,
                                                      const clip_edge_image *image, uint8_t *rgb, size_t rgb_bytes);
/* The same, scaled and normalised: 3 * size * size floats, channel by channel. */
CLIP_EDGE_API clip_edge_status clip_edge_preprocess_image(const clip_edge_preprocess_spec *spec,
                                                          const clip_edge_image *image, float *chw, size_t floats);

/* --- sentences -------------------------------------------------------------------------------------------- */

typedef enum clip_edge_text_cleaning {
  CLIP_EDGE_CLEAN_NONE = 0, /* whatever the tokenizer file itself does */
  CLIP_EDGE_CLEAN_CLIP = 1, /* instead of its normalizer: text mended, HTML references, single spaces, lower case */
  CLIP_EDGE_CLEAN_CANONICALIZE = 2, /* SigLIP's, before it: the same, without the punctuation of ASCII */
  CLIP_EDGE_CLEAN_WHITESPACE = 3    /* before it: CLIP's, in upper and lower case as they are */
} clip_edge_text_cleaning;

/* As bos_id: rows begin with the sentence. */
#define CLIP_EDGE_NO_TOKEN (-1)

/* What stands around a tokenizer file: a row is BOS, ids, EOS, then padding up to context_length. */
typedef struct clip_edge_text_spec {
  uint32_t struct_size;
  int32_t context_length; /* 3..4096 */
  int32_t vocab_size;     /* every id lies below */
  int32_t pad_id, bos_id, eos_id;
  clip_edge_text_cleaning clean;
} clip_edge_text_spec;

/* CLIP's: 77 ids of 49,408, padding 0, BOS 49406, EOS 49407, cleaned. */
CLIP_EDGE_API void clip_edge_text_spec_init(clip_edge_text_spec *spec, size_t struct_size);

/* Never changes once made: threads may share it. */
typedef struct clip_edge_tokenizer clip_edge_tokenizer;

/* From the bytes of a tokenizer.json, which are not needed afterwards. docs/embed.md says what it may hold. */
CLIP_EDGE_API clip_edge_status clip_edge_tokenizer_new(const char *json, size_t json_bytes,
                                                       const clip_edge_text_spec *spec,
                                                       clip_edge_tokenizer **tokenizer);
CLIP_EDGE_API void clip_edge_tokenizer_free(clip_edge_tokenizer *tokenizer); /* NULL does nothing */

/* As the length of a text: it ends at its first zero byte. */
#define CLIP_EDGE_NUL_TERMINATED ((size_t)-1)

/* One row of context_length ids. Invalid UTF-8 is read as U+FFFD; at most 1 MiB of text. */
CLIP_EDGE_API clip_edge_status clip_edge_tokenize(const clip_edge_tokenizer *tokenizer, const char *utf8, size_t length,
                                                  int32_t *ids, size_t capacity);

/* `count` rows, one after the other; `lengths` in bytes, or NULL where all texts end at their first zero byte. */
CLIP_EDGE_API clip_edge_status clip_edge_tokenize_texts(const clip_edge_tokenizer *tokenizer, const char *const *texts,
                                                        const size_t *lengths, size_t count, int32_t *ids,
                                                        size_t capacity);

/* --- models --------------------------------------------------------------------------------------------- */

/* A bundle. Any number of threads may use it at the same time, each through a session of its own. */
typedef struct clip_edge_model clip_edge_model;

typedef struct clip_edge_model_options {
  uint32_t struct_size;
  int32_t threads;         /* of the engine, and to read pictures with when several are given; 0: it decides */
  const char *precision;   /* "fp32", "int8", ...; NULL: the first that the bundle lists */
  const char *onnxruntime; /* path of libonnxruntime, used by the first model of the process; NULL: search */
  const char *backend;     /* one of clip_edge_backends(); NULL: "onnxruntime" */
  /* Of TensorRT and TensorRT-RTX, the first two used by the first model of the process with that backend: */
  const char *plugin;    /* path of libclip_edge_tensorrt or libclip_edge_tensorrt_rtx; NULL: beside this library */
  const char *libraries; /* folder of libnvinfer or libtensorrt_rtx; NULL: search */
  const char *engines;   /* folder of engines built here; NULL: $CLIP_EDGE_ENGINES, then the user's cache */
  int32_t device;        /* number of the GPU */
} clip_edge_model_options;

CLIP_EDGE_API void clip_edge_model_options_init(clip_edge_model_options *options, size_t struct_size);

/* Reads the manifest of a bundle folder and compares names and sizes: a file that is missing, not listed, or a link is
 * refused. Graphs and tokenizer are read, and their hashes checked, when first needed. `options` may be NULL. */
CLIP_EDGE_API clip_edge_status clip_edge_model_open(const char *folder, const clip_edge_model_options *options,
                                                    clip_edge_model **model);

/* One file of a bundle in the app's memory: `name` as in the manifest, such as "onnx/vision_model.onnx". */
typedef struct clip_edge_file {
  const char *name;
  const void *data;
  size_t bytes;
} clip_edge_file;

/* The same from memory, which must stay as it is until the model is freed; the table and its names need not.
 * "manifest.json" must be among the files; others may be missing as long as nothing needs them. */
CLIP_EDGE_API clip_edge_status clip_edge_model_open_files(const clip_edge_file *files, size_t count,
                                                          const clip_edge_model_options *options,
                                                          clip_edge_model **model);
/* The same out of an uncompressed tar archive (`tar --format=ustar -cf bundle.tar -C BUNDLE .`) that begins at byte
 * `offset` of an open file, such as an Android asset, and is `length` bytes long (-1: up to the file's end). The
 * descriptor is duplicated; the caller may close its own. */
CLIP_EDGE_API clip_edge_status clip_edge_model_open_archive(int descriptor, int64_t offset, int64_t length,
                                                            const clip_edge_model_options *options,
                                                            clip_edge_model **model);
/* After all of its sessions. NULL does nothing. */
CLIP_EDGE_API void clip_edge_model_free(clip_edge_model *model);

typedef struct clip_edge_model_info {
  uint32_t struct_size;
  int32_t dim;                 /* floats in an embedding */
  const char *name;            /* lives as long as the model */
  const char *embedding_space; /* vectors of two different spaces must never be compared */
  float logit_scale;
  int32_t normalized;    /* 1: embeddings are unit vectors */
  int32_t research_only; /* 1: the weights may not be used commercially */
  clip_edge_preprocess_spec preprocess;
  clip_edge_text_spec text;
  const char *precisions; /* that this library can run, separated by commas; lives as long as the model */
  const char *created_by; /* the program that made the bundle, and its version; lives as long as the model */
} clip_edge_model_info;

CLIP_EDGE_API clip_edge_status clip_edge_model_get_info(const clip_edge_model *model, clip_edge_model_info *info,
                                                        size_t struct_size);
/* Compares the size and hash of every file of the bundle with its manifest. */
CLIP_EDGE_API clip_edge_status clip_edge_model_check(const clip_edge_model *model);

/* What a model opens when it is first needed; a sum of these can be opened before. */
enum { CLIP_EDGE_LOAD_IMAGE = 1, CLIP_EDGE_LOAD_TEXT = 2, CLIP_EDGE_LOAD_TOKENIZER = 4 };

/* Opens these parts now, so that the first call is as quick as the others. */
CLIP_EDGE_API clip_edge_status clip_edge_model_load(clip_edge_model *model, uint32_t parts);

/* An engine that was made for this machine, or was there. The texts live during the call that shows it. */
typedef struct clip_edge_engine {
  uint32_t struct_size;
  int32_t built;          /* 0: the same engine was built before */
  const char *graph;      /* what it was made of, as in the manifest */
  const char *precision;
  const char *capability; /* of the GPU that it is for: "sm89" */
  const char *file;
  const char *reason; /* why it was built, or kept */
  uint64_t bytes, build_ns;
} clip_edge_engine;

typedef void (*clip_edge_engine_function)(const clip_edge_engine *engine, void *user);

typedef struct clip_edge_build_options {
  uint32_t struct_size;
  int32_t workspace_mib;          /* memory that the builder may try kernels with; 0: what the bundle says */
  const char *capability;         /* "sm89": for GPUs that are not here (TensorRT-RTX); NULL: the model's `device` */
  clip_edge_engine_function show; /* called for each engine; NULL: nobody looks */
  void *user;
} clip_edge_build_options;

CLIP_EDGE_API void clip_edge_build_options_init(clip_edge_build_options *options, size_t struct_size);

/* Builds the engines of both towers in the model's precision, unless the same were built before, and keeps them where
 * a model of this backend looks for them, as `clip-edge build` does. Minutes on small boards. Nothing but TensorRT and
 * TensorRT-RTX needs it: other backends return CLIP_EDGE_ERROR_UNSUPPORTED. `options` may be NULL. */
CLIP_EDGE_API clip_edge_status clip_edge_model_build(clip_edge_model *model, const clip_edge_build_options *options);

/* One tower against the reference embeddings of the bundle. */
typedef struct clip_edge_tower_check {
  int32_t cases;                          /* pictures or sentences */
  float min_cosine, mean_cosine, max_abs; /* against the reference; -1, -1 and 0 where a value was NaN or infinite */
  float tolerance;                        /* what min_cosine must reach in this precision */
  int32_t passed;
} clip_edge_tower_check;

typedef struct clip_edge_verification {
  uint32_t struct_size;
  int32_t passed;
  int32_t files;                /* whose hashes were checked */
  int32_t preprocess_max_grey;  /* the largest difference of a pixel, in grey levels; 1 is allowed */
  int32_t token_rows_different; /* sentences whose ids differ; 0 is allowed */
  float top1_agreement;         /* share of pictures whose nearest sentence is the reference's; only reported */
  clip_edge_tower_check image, text;
} clip_edge_verification;

/* The proof that the bundle still gives its reference embeddings here: hashes of all files, preprocessing, token ids
 * and both towers, in the model's precision, against the pictures and sentences that the bundle carries.
 * CLIP_EDGE_ERROR_VERIFICATION where numbers differ; the report says which (it may be NULL) and is zero where the
 * checks could not be made. */
CLIP_EDGE_API clip_edge_status clip_edge_model_verify(clip_edge_model *model, clip_edge_verification *report,
                                                      size_t struct_size);

/* --- sessions ------------------------------------------------------------------------------------------- */

/* One thread's use of a model. */
typedef struct clip_edge_session clip_edge_session;

CLIP_EDGE_API clip_edge_status clip_edge_session_new(clip_edge_model *model, clip_edge_session **session);
CLIP_EDGE_API void clip_edge_session_free(clip_edge_session *session); /* NULL does nothing */

/* Asked between batches; anything but 0 ends the call with CLIP_EDGE_ERROR_ABORTED. NULL: never asked. */
typedef int (*clip_edge_abort_function)(void *user);
CLIP_EDGE_API void clip_edge_session_set_abort(clip_edge_session *session, clip_edge_abort_function function,
                                               void *user);

/* Of the session's last call. */
typedef struct clip_edge_timings {
  uint32_t struct_size;
  uint64_t prepare_ns; /* resizing and normalising, or tokenising */
  uint64_t encode_ns;  /* in the engine */
  uint64_t decode_ns;  /* reading and decoding JPEG and PNG */
} clip_edge_timings;

CLIP_EDGE_API void clip_edge_session_get_timings(const clip_edge_session *session, clip_edge_timings *timings,
                                                 size_t struct_size);

/* `count` pictures -> count * dim floats. Any count: batches are made as the graph needs them. */
CLIP_EDGE_API clip_edge_status clip_edge_embed_images(clip_edge_session *session, const clip_edge_image *images,
                                                      size_t count, float *out, size_t out_floats);
/* `count` sentences -> count * dim floats. `lengths` in bytes; NULL: all end at their first zero byte. */
CLIP_EDGE_API clip_edge_status clip_edge_embed_texts(clip_edge_session *session, const char *const *texts,
                                                     const size_t *lengths, size_t count, float *out,
                                                     size_t out_floats);

/* What the towers themselves read, for apps that prepare pictures or sentences in another way:
 * `count` times 3 * size * size floats, as clip_edge_preprocess_image gives them -> count * dim floats. */
CLIP_EDGE_API clip_edge_status clip_edge_encode_pixels(clip_edge_session *session, const float *pixel_values,
                                                       size_t count, float *out, size_t out_floats);
/* `count` rows of context_length ids, as clip_edge_tokenize gives them -> count * dim floats. */
CLIP_EDGE_API clip_edge_status clip_edge_encode_ids(clip_edge_session *session, const int32_t *input_ids, size_t count,
                                                    float *out, size_t out_floats);

/* Labels as vectors, made once and used for every picture; `{}` in a template stands for the label. */
typedef struct clip_edge_prompts clip_edge_prompts;

/* `templates` NULL: the label as it stands. Threads may share the result. */
CLIP_EDGE_API clip_edge_status clip_edge_prompts_new(clip_edge_session *session, const char *const *labels,
                                                     size_t label_count, const char *const *templates,
                                                     size_t template_count, clip_edge_prompts **prompts);
CLIP_EDGE_API void clip_edge_prompts_free(clip_edge_prompts *prompts); /* NULL does nothing */

/* The probability of each label: label_count floats that sum to 1. */
CLIP_EDGE_API clip_edge_status clip_edge_classify(clip_edge_session *session, const clip_edge_prompts *prompts,
                                                  const clip_edge_image *image, float *out, size_t out_floats);

/* --- outlines --------------------------------------------------------------------------------------------- */

/* A picture as the encoder of a bundle with graphs for segmentation saw it (docs/segment.md): the encoder runs once, and
 * its heads are asked as often as wanted. Never changes once made: threads may share it. */
typedef struct clip_edge_view clip_edge_view;

/* Runs the encoder. CLIP_EDGE_ERROR_UNSUPPORTED: the bundle has no such graphs, or the backend runs none. */
CLIP_EDGE_API clip_edge_status clip_edge_look(clip_edge_session *session, const clip_edge_image *image,
                                              clip_edge_view **view);
CLIP_EDGE_API void clip_edge_view_free(clip_edge_view *view); /* NULL does nothing */

typedef struct clip_edge_view_info {
  uint32_t struct_size;
  int32_t width, height;          /* of the upright picture */
  int32_t map_width, map_height;  /* places that have an embedding of their own */
  int32_t has_masks;              /* whether the bundle has a mask decoder */
  float left, top, right, bottom; /* what the model sees of the picture, in pixels: all of it, or a square */
} clip_edge_view_info;

CLIP_EDGE_API clip_edge_status clip_edge_view_get_info(const clip_edge_view *view, clip_edge_view_info *info,
                                                       size_t struct_size);

/* The embedding of the picture, `dim` floats, and of every place, `dim` times map_height * map_width floats, channel by
 * channel; both of length one. Either may be NULL, with no room. */
CLIP_EDGE_API clip_edge_status clip_edge_view_embed(clip_edge_session *session, const clip_edge_view *view,
                                                    float *picture, size_t picture_floats, float *places,
                                                    size_t place_floats);

/* What outlines one thing, in pixels of the upright picture: points, a box, or both. */
typedef struct clip_edge_prompt {
  uint32_t struct_size;
  int32_t has_box;
  float box[4];          /* left, top, right, bottom */
  const float *points;   /* x, y, x, y, ... */
  const uint8_t *inside; /* of each point: 0 where it lies beside the thing; NULL: all lie on it */
  size_t point_count;    /* at most 256 */
} clip_edge_prompt;

/* Neither a box nor points yet. */
CLIP_EDGE_API void clip_edge_prompt_init(clip_edge_prompt *prompt, size_t struct_size);

/* The best of three outlines: width * height bytes, row by row, 255 inside and 0 outside. `iou` (it may be NULL)
 * becomes how good the model expects it to be. CLIP_EDGE_ERROR_INVALID_ARGUMENT: the prompt lies outside the picture, or
 * of what the model sees of it. */
CLIP_EDGE_API clip_edge_status clip_edge_outline(clip_edge_session *session, const clip_edge_view *view,
                                                 const clip_edge_prompt *prompt, uint8_t *mask, size_t mask_bytes,
                                                 float *iou);

/* --- stored embeddings --------------------------------------------------------------------------------- */

/* A file of embeddings with a label for each, made by `clip-edge index` or `clip-edge-cli index`. It is mapped, not
 * read: memory is used for what is searched, and given back when others need it. The file must not change while it is
 * open. Never changes once made: threads may share it. */
typedef struct clip_edge_index clip_edge_index;

/* `embedding_space`: the model's (in clip_edge_model_info); a file with another one is refused. NULL: not compared. */
CLIP_EDGE_API clip_edge_status clip_edge_index_open(const char *path, const char *embedding_space,
                                                    clip_edge_index **index);
CLIP_EDGE_API void clip_edge_index_free(clip_edge_index *index); /* NULL does nothing */

typedef struct clip_edge_index_info {
  uint32_t struct_size;
  int32_t dim; /* floats in a query */
  uint64_t count;
  const char *embedding_space; /* lives as long as the index, as `type` does */
  const char *type;            /* how the file stores its rows: "float32", "float16" or "int8" */
} clip_edge_index_info;

CLIP_EDGE_API clip_edge_status clip_edge_index_get_info(const clip_edge_index *index, clip_edge_index_info *info,
                                                        size_t struct_size);
/* `bytes` bytes of UTF-8 inside of the file, without a zero byte at the end; they live as long as the index. */
CLIP_EDGE_API clip_edge_status clip_edge_index_get_label(const clip_edge_index *index, uint64_t row, const char **utf8,
                                                         size_t *bytes);

typedef struct clip_edge_hit {
  uint64_t row;
  float score; /* the dot product, which is the cosine where embeddings are unit vectors */
} clip_edge_hit;

/* The `top` rows with the greatest dot product for each query, exactly, the greatest first, equal ones in row order.
 * `found` becomes the hits of each query (`top`, or all rows where they are fewer); the hits of the first query come
 * first. `threads`: that share the rows; 0 and 1: the caller's alone. */
CLIP_EDGE_API clip_edge_status clip_edge_index_search(const clip_edge_index *index, const float *queries,
                                                      size_t query_count, size_t top, int32_t threads,
                                                      clip_edge_hit *hits, size_t capacity, size_t *found);

#ifdef __cplusplus
}
#endif
#endif
