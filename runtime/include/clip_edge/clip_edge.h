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
  CLIP_EDGE_ERROR_INTERNAL = 10
} clip_edge_status;

/* "ok", "invalid argument", ... ; never NULL. */
CLIP_EDGE_API const char *clip_edge_status_name(clip_edge_status status);
/* What went wrong in the last failed call of this thread; never NULL, valid until the thread's next call. */
CLIP_EDGE_API const char *clip_edge_last_error(void);
/* "0.1.0" */
CLIP_EDGE_API const char *clip_edge_version(void);
CLIP_EDGE_API uint32_t clip_edge_abi_version(void);

/* --- pictures --------------------------------------------------------------------------------------------- */

typedef enum clip_edge_pixel_format {
  CLIP_EDGE_PIXELS_RGB = 0,  /* 3 bytes a pixel in plane[0] */
  CLIP_EDGE_PIXELS_BGR = 1,
  CLIP_EDGE_PIXELS_RGBA = 2, /* straight alpha, laid over white */
  CLIP_EDGE_PIXELS_BGRA = 3,
  CLIP_EDGE_PIXELS_GREY = 4,
  CLIP_EDGE_PIXELS_NV12 = 5, /* plane[0] luma; plane[1] U,V pairs for 2x2 pixels */
  CLIP_EDGE_PIXELS_NV21 = 6, /* the same with V,U pairs */
  CLIP_EDGE_PIXELS_I420 = 7  /* plane[0] luma, plane[1] U, plane[2] V */
} clip_edge_pixel_format;

/* How NV12, NV21 and I420 become RGB. Chroma is repeated, not smoothed. */
typedef enum clip_edge_yuv {
  CLIP_EDGE_YUV_BT601_FULL = 0,    /* JPEG and most phone cameras: 0..255 */
  CLIP_EDGE_YUV_BT601_LIMITED = 1, /* SD video: luma 16..235, chroma 16..240 */
  CLIP_EDGE_YUV_BT709_LIMITED = 2  /* HD video */
} clip_edge_yuv;

/* A picture in the caller's memory; it is only read, and only during the call. */
typedef struct clip_edge_image {
  uint32_t struct_size;
  int32_t width, height; /* as stored, before the orientation is applied; each 1..65535 */
  clip_edge_pixel_format format;
  const uint8_t *plane[3];
  int32_t stride[3];   /* bytes from one row to the next; 0: rows lie side by side */
  int32_t orientation; /* EXIF value 1..8; 1 is upright */
  clip_edge_yuv yuv;
} clip_edge_image;

/* Upright RGB with packed rows and no pixels yet. Pass sizeof(clip_edge_image), here and in the other `_init`. */
CLIP_EDGE_API void clip_edge_image_init(clip_edge_image *image, size_t struct_size);

typedef enum clip_edge_resize {
  CLIP_EDGE_RESIZE_SHORTEST = 0, /* the shorter side becomes `size`, then the centre is cropped */
  CLIP_EDGE_RESIZE_SQUASH = 1    /* both sides become `size`, whatever the aspect ratio */
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
  CLIP_EDGE_CLEAN_CLIP = 1  /* before it: odd characters mended, HTML references, single spaces, lower case */
} clip_edge_text_cleaning;

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

/* From the bytes of a tokenizer.json (byte-level BPE), which are not needed afterwards. */
CLIP_EDGE_API clip_edge_status clip_edge_tokenizer_new(const char *json, size_t json_bytes,
                                                       const clip_edge_text_spec *spec,
                                                       clip_edge_tokenizer **tokenizer);
CLIP_EDGE_API void clip_edge_tokenizer_free(clip_edge_tokenizer *tokenizer); /* NULL does nothing */

/* As the length of a text: it ends at its first zero byte. */
#define CLIP_EDGE_NUL_TERMINATED ((size_t)-1)

/* One row of context_length ids. Invalid UTF-8 is read as U+FFFD; at most 1 MiB of text. */
CLIP_EDGE_API clip_edge_status clip_edge_tokenize(const clip_edge_tokenizer *tokenizer, const char *utf8,
                                                  size_t length, int32_t *ids, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
