// The input is two bytes of length, a sentence of that length, and a tokenizer.json.
#include "clip_edge/clip_edge.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Input input(data, size);
  const auto wanted = static_cast<size_t>(input.take<uint16_t>());
  const size_t length = wanted < input.size() ? wanted : input.size();
  const char *text = reinterpret_cast<const char *>(input.data());
  input.skip(length);

  clip_edge_text_spec spec;
  clip_edge_text_spec_init(&spec, sizeof(spec));
  spec.context_length = 16, spec.vocab_size = 300, spec.bos_id = 298, spec.eos_id = 299;
  spec.clean = wanted % 2 == 0 ? CLIP_EDGE_CLEAN_CLIP : CLIP_EDGE_CLEAN_NONE;
  clip_edge_tokenizer *tokenizer = nullptr;
  const clip_edge_status opened =
      clip_edge_tokenizer_new(reinterpret_cast<const char *>(input.data()), input.size(), &spec, &tokenizer);
  EXPECT(opened != CLIP_EDGE_ERROR_INTERNAL && (opened == CLIP_EDGE_OK) == (tokenizer != nullptr));
  if (tokenizer == nullptr) return 0;
  int32_t ids[16];
  const clip_edge_status status = clip_edge_tokenize(tokenizer, text, length, ids, 16);
  EXPECT(status != CLIP_EDGE_ERROR_INTERNAL);
  for (int32_t id : ids) EXPECT(status != CLIP_EDGE_OK || (id >= 0 && id < 300));
  clip_edge_tokenizer_free(tokenizer);
  return 0;
}
