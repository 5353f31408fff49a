// The input is the fields of a frame and of a specification; the planes are exactly as large as the fields say, so that
// the address sanitizer sees every byte too much.
#include <vector>

#include "clip_edge/clip_edge.h"
#include "fuzz.h"

namespace {

struct Shape {
  int row_bytes, rows;
};

// Of plane `p` as the header describes it; nothing for planes that the format has not.
Shape shape_of(const clip_edge_image &image, int p) {
  const int format = image.format, columns = (image.width + 1) / 2, rows = (image.height + 1) / 2;
  if (p == 0) return {image.width * (format <= 1 ? 3 : format <= 3 ? 4 : 1), image.height};
  if (format == CLIP_EDGE_PIXELS_I420) return {columns, rows};
  return p == 1 && format >= CLIP_EDGE_PIXELS_NV12 ? Shape{2 * columns, rows} : Shape{0, 0};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Input input(data, size);
  clip_edge_image image;
  clip_edge_image_init(&image, sizeof(image));
  image.width = input.take<int8_t>(), image.height = input.take<int8_t>();
  image.format = static_cast<clip_edge_pixel_format>(input.take<uint8_t>() % 8);
  image.orientation = input.take<int8_t>() % 12;
  image.yuv = static_cast<clip_edge_yuv>(input.take<uint8_t>() % 4);
  clip_edge_preprocess_spec spec;
  clip_edge_preprocess_spec_init(&spec, sizeof(spec));
  spec.size = input.take<int8_t>() % 40;
  spec.resize = static_cast<clip_edge_resize>(input.take<uint8_t>() % 3);
  spec.interpolation = static_cast<clip_edge_interpolation>(input.take<uint8_t>() % 3);
  std::vector<uint8_t> planes[3];
  for (int p = 0; p < 3; p++) {
    const Shape shape = shape_of(image, p);
    const int padding = input.take<int8_t>() % 8;
    image.stride[p] = shape.row_bytes + padding;
    const int step = image.stride[p] == 0 ? shape.row_bytes : image.stride[p];
    if (shape.rows > 0 && step > 0 && shape.row_bytes > 0)  // the last row needs no padding
      planes[p].assign(static_cast<size_t>(step) * static_cast<size_t>(shape.rows - 1) +
                           static_cast<size_t>(shape.row_bytes),
                       input.take<uint8_t>());
    image.plane[p] = planes[p].empty() ? nullptr : planes[p].data();
  }
  std::vector<uint8_t> out(3 * 40 * 40);
  const clip_edge_status status = clip_edge_resize_image(&spec, &image, out.data(), out.size());
  EXPECT(status == CLIP_EDGE_OK || status == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  return 0;
}
