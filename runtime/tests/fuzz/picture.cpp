// The input is a byte of settings and a JPEG or PNG. Large pictures are left out: they cost time and show nothing new.
#include <vector>

#include "fuzz.h"
#include "picture.h"
#include "status.h"

using namespace clip_edge::core;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Input input(data, size);
  const auto settings = input.take<uint8_t>();
  try {
    const PictureHeader header = read_header(input.data(), input.size());
    EXPECT(header.width >= 1 && header.height >= 1 && header.orientation >= 1 && header.orientation <= 8);
    if (int64_t{header.width} * header.height > 300000) return 0;
  } catch (const Error &error) {
    EXPECT(error.status == CLIP_EDGE_ERROR_PICTURE && !error.text.empty());
    return 0;
  }
  clip_edge_preprocess_spec spec;
  clip_edge_preprocess_spec_init(&spec, sizeof(spec));
  spec.size = 1 + settings % 16;
  spec.resize = settings & 16 ? CLIP_EDGE_RESIZE_SQUASH : CLIP_EDGE_RESIZE_SHORTEST;
  clip_edge_image image;
  clip_edge_image_init(&image, sizeof(image));
  image.format = CLIP_EDGE_PIXELS_ENCODED;
  image.plane[0] = input.data(), image.encoded_bytes = input.size();
  image.decoding = settings & 32 ? CLIP_EDGE_DECODE_EXACT : CLIP_EDGE_DECODE_FAST;
  std::vector<uint8_t> out(3 * 16 * 16);
  const clip_edge_status status = clip_edge_resize_image(&spec, &image, out.data(), out.size());
  EXPECT(status == CLIP_EDGE_OK || status == CLIP_EDGE_ERROR_PICTURE);
  return 0;
}
