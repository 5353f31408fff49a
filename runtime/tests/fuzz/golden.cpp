// The input is a safetensors file, read for a model of 2 x 2 pixels, 3 tokens and 2 floats.
#include "fuzz.h"
#include "golden.h"
#include "status.h"

using namespace clip_edge::core;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Manifest manifest;
  clip_edge_preprocess_spec_init(&manifest.preprocess, sizeof(manifest.preprocess));
  clip_edge_text_spec_init(&manifest.text, sizeof(manifest.text));
  manifest.preprocess.size = 2, manifest.text.context_length = 3, manifest.dim = 2;
  try {
    const Golden found = parse_golden(std::string(reinterpret_cast<const char *>(data), size), manifest, "g");
    for (const Golden::Picture &picture : found.pictures)
      EXPECT(picture.start + 3 * static_cast<size_t>(picture.width) * static_cast<size_t>(picture.height) <= size);
    EXPECT(found.pixels_start + 12 * found.pictures.size() <= size);
    EXPECT(found.input_ids.size() == 3 * found.texts.size());
  } catch (const Error &error) {
    EXPECT(error.status != CLIP_EDGE_ERROR_INTERNAL && !error.text.empty());
  }
  return 0;
}
