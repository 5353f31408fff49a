// JPEG and PNG: a thousand damaged ones end in a status, and those of CLIP_EDGE_TEST_PICTURES equal Pillow's bytes
// (`python -m tests.runtime.native.pictures FOLDER` makes that folder). Skipped where the decoders are not installed.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "check.h"
#include "clip_edge/clip_edge.hpp"

namespace {

using Bytes = std::vector<uint8_t>;

#include "tiny_pictures.inc"

clip_edge_status to_square(const Bytes &file, int size, clip_edge_decoding decoding, Bytes &out) {
  clip_edge_preprocess_spec spec;
  clip_edge_preprocess_spec_init(&spec, sizeof(spec));
  spec.size = size;
  clip_edge_image image = clip_edge::encoded(file.data(), file.size());
  image.decoding = decoding;
  out.resize(static_cast<size_t>(3) * size * size);
  return clip_edge_resize_image(&spec, &image, out.data(), out.size());
}

void damaged_pictures_end_in_a_status(const Bytes &whole, int rounds) {
  std::mt19937 random(29);
  const auto below = [&](size_t end) { return std::uniform_int_distribution<size_t>(0, end - 1)(random); };
  int refused = 0;
  Bytes out;
  for (int round = 0; round < rounds; round++) {
    Bytes file = whole;
    for (size_t change = 0; change <= below(6); change++) {
      const auto at = file.begin() + static_cast<ptrdiff_t>(below(file.size()));
      const auto left = static_cast<size_t>(file.end() - at);
      if (change % 3 == 0) *at = static_cast<uint8_t>(below(256));
      if (change % 3 == 1) file.erase(at, at + static_cast<ptrdiff_t>(1 + below(left)));
      if (change % 3 == 2) file.insert(at, 3, static_cast<uint8_t>(below(256)));
      if (file.empty()) file.push_back(0);
    }
    const clip_edge_status status = to_square(file, 1 + round % 9, static_cast<clip_edge_decoding>(round % 2), out);
    CHECK(status == CLIP_EDGE_OK || (status == CLIP_EDGE_ERROR_PICTURE && clip_edge_last_error()[0] != '\0'));
    refused += status != CLIP_EDGE_OK;
  }
  CHECK(refused > rounds / 20 && refused < rounds);
  std::printf("%d of %d damaged pictures refused\n", refused, rounds);
}

Bytes read_file(const std::string &path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void pictures_equal_pillows(const std::string &folder) {
  int count = 0;
  for (;; count++) {
    const std::string name = folder + "/" + std::to_string(count);
    const Bytes file = read_file(name + ".picture"), expected = read_file(name + ".rgb");
    if (file.empty()) break;
    Bytes found;
    CHECK(to_square(file, 32, CLIP_EDGE_DECODE_EXACT, found) == CLIP_EDGE_OK);
    if (found != expected) std::printf("differs: %s\n", name.c_str());
    CHECK(found == expected);
  }
  std::printf("%d pictures compared with Pillow\n", count);
  CHECK(count > 0);
}

}  // namespace

int main() {
  Bytes out;
  for (const Bytes &tiny : {kTinyJpeg, kTinyPng})
    if (to_square(tiny, 8, CLIP_EDGE_DECODE_FAST, out) == CLIP_EDGE_ERROR_DECODER) {
      std::printf("skipped: %s\n", clip_edge_last_error());
      return 77;
    }
  damaged_pictures_end_in_a_status(kTinyJpeg, 1000);
  damaged_pictures_end_in_a_status(kTinyPng, 1000);
  if (const char *folder = std::getenv("CLIP_EDGE_TEST_PICTURES")) pictures_equal_pillows(folder);
  return finish();
}
