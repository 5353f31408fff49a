// The input follows `{"manifest_sha256":"...",`, whose hash is always right, so that the reader behind it is reached.
#include "bundle.h"
#include "fuzz.h"
#include "sha256.h"
#include "status.h"

using namespace clip_edge::core;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const std::string body(reinterpret_cast<const char *>(data), size), head = "{\"manifest_sha256\":\"";
  const std::string hash = sha256_hex(head + std::string(64, '0') + "\"," + body);
  try {
    const Manifest found = parse_manifest(head + hash + "\"," + body, "m");
    EXPECT(found.dim >= 1 && found.preprocess.size >= 1 && found.text.context_length >= 3);
  } catch (const Error &error) {
    EXPECT(error.status != CLIP_EDGE_ERROR_INTERNAL && !error.text.empty());
  }
  return 0;
}
