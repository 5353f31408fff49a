// Pictures to model input, as clip_edge/preprocess.py defines it.
#pragma once

#include <cstdint>
#include <vector>

#include "clip_edge/clip_edge.h"
#include "resample.h"

namespace clip_edge::core {

void check_spec(const clip_edge_preprocess_spec &spec);

// What a reduced picture was before: eighths / 8 of its sides, rounded up, are there. With 8 it is not reduced.
struct Reduction {
  int width = 0, height = 0, eighths = 8;
};

// Upright, resized and cropped RGB bytes, size * size * 3, of pixels in memory.
std::vector<uint8_t> resize_and_crop(const clip_edge_image &image, const clip_edge_preprocess_spec &spec,
                                     const Kernels &kernels = best_kernels(), const Reduction &reduction = {});

// The same of any picture, decoded first where it must be; `decode_ns` grows by the time that took.
// `size` becomes the sides of the whole upright picture.
struct Sides {
  int width = 0, height = 0;
};
std::vector<uint8_t> make_square(const clip_edge_image &image, const clip_edge_preprocess_spec &spec,
                                 uint64_t &decode_ns, Sides *size = nullptr);

// (size, size, 3) bytes -> (3, size, size) floats: value / 255, minus mean, divided by std.
void normalize(const uint8_t *rgb, const clip_edge_preprocess_spec &spec, float *chw);

// A caller's structures, whatever version of the header they were compiled with.
clip_edge_preprocess_spec read_spec(const clip_edge_preprocess_spec *spec);
clip_edge_image read_image(const clip_edge_image *image);

}  // namespace clip_edge::core
