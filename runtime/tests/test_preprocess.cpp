// Resizing and frames: vector code equals scalar code, every orientation and format equals its upright RGB twin.
#include <algorithm>
#include <random>
#include <vector>

#include "check.h"
#include "frame.h"
#include "preprocess.h"
#include "status.h"

using namespace clip_edge::core;

namespace {

std::mt19937 random_source(7);

int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_source); }

std::vector<uint8_t> random_bytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t &byte : bytes) byte = static_cast<uint8_t>(random_int(0, 255));
  return bytes;
}

clip_edge_image rgb_image(const std::vector<uint8_t> &pixels, int width, int height) {
  clip_edge_image image;
  clip_edge_image_init(&image, sizeof(image));
  image.width = width, image.height = height;
  image.plane[0] = pixels.data();
  return image;
}

clip_edge_preprocess_spec random_spec() {
  clip_edge_preprocess_spec spec;
  clip_edge_preprocess_spec_init(&spec, sizeof(spec));
  spec.size = random_int(1, 96);
  spec.resize = random_int(0, 1) ? CLIP_EDGE_RESIZE_SHORTEST : CLIP_EDGE_RESIZE_SQUASH;
  spec.interpolation = random_int(0, 1) ? CLIP_EDGE_BICUBIC : CLIP_EDGE_BILINEAR;
  return spec;
}

void vector_code_equals_scalar_code() {
  std::printf("kernels: %s\n", best_kernels().name);
  for (int round = 0; round < 300; round++) {
    const int width = random_int(1, 300), height = random_int(1, 300);
    const std::vector<uint8_t> pixels = random_bytes(3 * static_cast<size_t>(width) * height);
    const clip_edge_image image = rgb_image(pixels, width, height);
    const clip_edge_preprocess_spec spec = random_spec();
    CHECK(resize_and_crop(image, spec, best_kernels()) == resize_and_crop(image, spec, scalar_kernels()));
  }
}

std::vector<uint8_t> all_rows(const clip_edge_image &image) {
  RowReader reader(image);
  std::vector<uint8_t> pixels;
  for (int y = 0; y < reader.height(); y++) {
    const uint8_t *row = reader.row(y);
    pixels.insert(pixels.end(), row, row + 3 * static_cast<size_t>(reader.width()));
  }
  return pixels;
}

// Where pixel (x, y) of the upright picture lies in the stored one, by the EXIF table.
void stored_position(int orientation, int width, int height, int x, int y, int *column, int *row) {
  const int table[8][2] = {{x, y}, {width - 1 - x, y},  {width - 1 - x, height - 1 - y}, {x, height - 1 - y},
                           {y, x}, {y, height - 1 - x}, {width - 1 - y, height - 1 - x}, {width - 1 - y, x}};
  *column = table[orientation - 1][0], *row = table[orientation - 1][1];
}

void every_orientation_is_turned_upright() {
  for (int orientation = 1; orientation <= 8; orientation++) {
    const int width = random_int(1, 70), height = random_int(1, 70);
    const std::vector<uint8_t> pixels = random_bytes(3 * static_cast<size_t>(width) * height);
    clip_edge_image image = rgb_image(pixels, width, height);
    image.orientation = orientation;
    const std::vector<uint8_t> upright = all_rows(image);
    const int wide = orientation < 5 ? width : height, high = orientation < 5 ? height : width;
    bool equal = upright.size() == pixels.size();
    for (int y = 0; y < high; y++)
      for (int x = 0; x < wide; x++) {
        int column, row;
        stored_position(orientation, width, height, x, y, &column, &row);
        equal = equal && std::equal(&upright[3 * (y * wide + x)], &upright[3 * (y * wide + x)] + 3,
                                    &pixels[3 * (row * width + column)]);
      }
    CHECK(equal);
  }
}

void packed_formats_equal_rgb() {
  const int width = 37, height = 11, stride = 4 * width + 5;
  const std::vector<uint8_t> pixels = random_bytes(3 * static_cast<size_t>(width) * height);
  const std::vector<uint8_t> expected = all_rows(rgb_image(pixels, width, height));
  for (clip_edge_pixel_format format : {CLIP_EDGE_PIXELS_BGR, CLIP_EDGE_PIXELS_RGBA, CLIP_EDGE_PIXELS_BGRA}) {
    const int bytes = format == CLIP_EDGE_PIXELS_BGR ? 3 : 4;
    const int red = format == CLIP_EDGE_PIXELS_RGBA ? 0 : 2;
    std::vector<uint8_t> stored(static_cast<size_t>(stride) * height, 255);
    for (int y = 0; y < height; y++)
      for (int x = 0; x < width; x++)
        for (int c = 0; c < 3; c++)
          stored[y * stride + bytes * x + (c == 1 ? 1 : c == 0 ? red : 2 - red)] = pixels[3 * (y * width + x) + c];
    clip_edge_image image = rgb_image(stored, width, height);
    image.format = format;
    image.stride[0] = stride;
    CHECK(all_rows(image) == expected);
  }
}

void yuv_layouts_agree() {
  const int width = 21, height = 9, half = (width + 1) / 2, half_rows = (height + 1) / 2;
  const std::vector<uint8_t> luma = random_bytes(static_cast<size_t>(width) * height);
  const std::vector<uint8_t> u = random_bytes(static_cast<size_t>(half) * half_rows), v = random_bytes(u.size());
  std::vector<uint8_t> uv, vu;
  for (size_t i = 0; i < u.size(); i++) {
    uv.push_back(u[i]), uv.push_back(v[i]);
    vu.push_back(v[i]), vu.push_back(u[i]);
  }
  clip_edge_image planar = rgb_image(luma, width, height), nv12 = planar, nv21 = planar;
  planar.format = CLIP_EDGE_PIXELS_I420, planar.plane[1] = u.data(), planar.plane[2] = v.data();
  nv12.format = CLIP_EDGE_PIXELS_NV12, nv12.plane[1] = uv.data();
  nv21.format = CLIP_EDGE_PIXELS_NV21, nv21.plane[1] = vu.data();
  for (clip_edge_yuv matrix : {CLIP_EDGE_YUV_BT601_FULL, CLIP_EDGE_YUV_BT601_LIMITED, CLIP_EDGE_YUV_BT709_LIMITED}) {
    planar.yuv = nv12.yuv = nv21.yuv = matrix;
    for (int orientation : {1, 3, 6, 8}) {
      planar.orientation = nv12.orientation = nv21.orientation = orientation;
      CHECK(all_rows(planar) == all_rows(nv12));
      CHECK(all_rows(planar) == all_rows(nv21));
    }
  }
}

void mistakes_are_told() {
  clip_edge_preprocess_spec spec;
  clip_edge_preprocess_spec_init(&spec, sizeof(spec));
  const std::vector<uint8_t> pixels(12);
  std::vector<uint8_t> out(224 * 224 * 3);
  clip_edge_image image = rgb_image(pixels, 2, 2);
  const auto resize = [&] { return clip_edge_resize_image(&spec, &image, out.data(), out.size()); };
  CHECK(resize() == CLIP_EDGE_OK);
  CHECK(clip_edge_resize_image(nullptr, &image, out.data(), out.size()) == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  CHECK_TEXT(clip_edge_last_error(), "`spec` must not be NULL");
  CHECK(clip_edge_resize_image(&spec, &image, out.data(), 5) == CLIP_EDGE_ERROR_BUFFER_TOO_SMALL);
  CHECK_TEXT(clip_edge_last_error(), "`rgb` needs 150528 bytes, it has 5");
  image.width = 0;
  CHECK(resize() == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  CHECK_TEXT(clip_edge_last_error(), "the picture's sides must lie in 1..65535; found 0 x 2");
  image.width = 2, image.stride[0] = 5;
  CHECK(resize() == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  CHECK_TEXT(clip_edge_last_error(), "the picture's stride[0] is 5 bytes, a row has 6");
  image.stride[0] = 0, image.orientation = 9;
  CHECK(resize() == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  CHECK_TEXT(clip_edge_last_error(), "the orientation must be an EXIF value 1..8; found 9");
  image.orientation = 1, image.struct_size = 0;
  CHECK(resize() == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  CHECK_TEXT(clip_edge_last_error(), "`image` was not initialised: its struct_size is 0");
}

void extreme_shapes_survive() {
  const std::vector<uint8_t> pixels(3 * 65535, 200);
  for (const auto &[width, height] : {std::pair(65535, 1), std::pair(1, 65535)}) {
    clip_edge_preprocess_spec spec = random_spec();
    spec.size = 64;
    const std::vector<uint8_t> square = resize_and_crop(rgb_image(pixels, width, height), spec);
    CHECK(std::all_of(square.begin(), square.end(), [](uint8_t value) { return value == 200; }));
  }
}

}  // namespace

int main() {
  vector_code_equals_scalar_code();
  every_orientation_is_turned_upright();
  packed_formats_equal_rgb();
  yuv_layouts_agree();
  mistakes_are_told();
  extreme_shapes_survive();
  return finish();
}
