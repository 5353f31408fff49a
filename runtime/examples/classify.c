/* Classifies one camera frame. cc classify.c $(pkg-config --cflags --libs clip_edge) -o classify
 * classify BUNDLE FRAME.ppm LABEL...   (a binary PPM: width, height and RGB bytes) */
#include <clip_edge/clip_edge.h>
#include <stdio.h>
#include <stdlib.h>

static int complain(const char *what) {
  fprintf(stderr, "%s: %s\n", what, clip_edge_last_error());
  return 1;
}

static uint8_t *read_ppm(const char *path, int *width, int *height) {
  FILE *file = fopen(path, "rb");
  uint8_t *pixels = NULL;
  if (file != NULL && fscanf(file, "P6 %d %d 255", width, height) == 2 && fgetc(file) != EOF && *width > 0 &&
      *height > 0 && *width <= 65535 && *height <= 65535) {
    const size_t bytes = (size_t)*width * (size_t)*height * 3;
    pixels = malloc(bytes);
    if (pixels != NULL && fread(pixels, 1, bytes, file) != bytes) {
      free(pixels);
      pixels = NULL;
    }
  }
  if (file != NULL) fclose(file);
  return pixels;
}

static int classify(clip_edge_session *session, const clip_edge_image *frame, const char *const *labels, size_t count) {
  static const char *const templates[] = {"a photo of {}"};
  clip_edge_prompts *prompts = NULL;
  float *shares = malloc(count * sizeof(float));
  int failed = shares == NULL ||
               clip_edge_prompts_new(session, labels, count, templates, 1, &prompts) != CLIP_EDGE_OK ||
               clip_edge_classify(session, prompts, frame, shares, count) != CLIP_EDGE_OK;
  if (failed) complain("classify");
  for (size_t i = 0; !failed && i < count; i++) printf("%5.1f %%  %s\n", 100.0 * (double)shares[i], labels[i]);
  clip_edge_prompts_free(prompts);
  free(shares);
  return failed;
}

int main(int argc, char **argv) {
  clip_edge_model *model = NULL;
  clip_edge_session *session = NULL;
  clip_edge_model_options options;
  clip_edge_image frame;
  int width = 0, height = 0, failed = 1;
  uint8_t *pixels;
  if (argc < 4) {
    fprintf(stderr, "usage: classify BUNDLE FRAME.ppm LABEL...\n");
    return 2;
  }
  pixels = read_ppm(argv[2], &width, &height);
  if (pixels == NULL) {
    fprintf(stderr, "%s: not a binary PPM picture\n", argv[2]);
    return 1;
  }
  clip_edge_image_init(&frame, sizeof frame); /* for a camera: format NV12, two planes, strides, orientation */
  frame.width = width;
  frame.height = height;
  frame.plane[0] = pixels;
  clip_edge_model_options_init(&options, sizeof options);
  options.onnxruntime = getenv("ONNXRUNTIME_LIBRARY"); /* NULL: the system's */
  if (clip_edge_model_open(argv[1], &options, &model) != CLIP_EDGE_OK)
    complain(argv[1]);
  else if (clip_edge_session_new(model, &session) != CLIP_EDGE_OK)
    complain("session");
  else
    failed = classify(session, &frame, (const char *const *)argv + 3, (size_t)argc - 3);
  clip_edge_session_free(session);
  clip_edge_model_free(model);
  free(pixels);
  return failed;
}
