/* A C99 program that uses the installed library: it resizes a picture and reads an error. */
#include <clip_edge/clip_edge.h>
#include <string.h>

int main(void) {
  uint8_t pixels[12] = {255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0}, out[3];
  clip_edge_preprocess_spec spec;
  clip_edge_image image;
  clip_edge_model *model = NULL;
  clip_edge_preprocess_spec_init(&spec, sizeof spec);
  clip_edge_image_init(&image, sizeof image);
  spec.size = 1;
  image.width = image.height = 2;
  image.plane[0] = pixels;
  if (clip_edge_resize_image(&spec, &image, out, sizeof out) != CLIP_EDGE_OK) return 1;
  if (out[0] != 255 || out[1] != 0) return 2;
  if (clip_edge_model_open("/nowhere", NULL, &model) != CLIP_EDGE_ERROR_IO || model != NULL) return 3;
  if (strstr(clip_edge_last_error(), "/nowhere/manifest.json") == NULL) return 4;
  return strcmp(clip_edge_version(), CLIP_EDGE_EXPECTED_VERSION) == 0 ? 0 : 5;
}
