// The golden set of a bundle, as clip_edge/golden.py writes it: pictures, sentences and what PyTorch made of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle.h"

namespace clip_edge::core {

constexpr size_t kMostGoldenBytes = size_t{256} << 20;

// N pictures and M sentences with their fp32 reference embeddings.
struct Golden {
  struct Picture {
    int32_t width, height;
    size_t start;  // of its RGB bytes, in `bytes`
  };
  std::string bytes;  // the whole file
  std::vector<Picture> pictures;
  size_t pixels_start;  // (N, S, S, 3) bytes after resizing and cropping, in `bytes`
  std::vector<std::string> texts;
  std::vector<int64_t> input_ids;                // (M, L)
  std::vector<float> image_embeds, text_embeds;  // (N, D), (M, D)

  const uint8_t *at(size_t start) const { return reinterpret_cast<const uint8_t *>(bytes.data()) + start; }
};

// From the bytes of a safetensors file, which must fit the manifest; `where` stands in messages. Throws Error.
Golden parse_golden(std::string bytes, const Manifest &manifest, const std::string &where);

}  // namespace clip_edge::core
