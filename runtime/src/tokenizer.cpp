#include "tokenizer.h"

#include <algorithm>
#include <cstring>

#include "clean.h"
#include "status.h"
#include "unicode.h"

struct clip_edge_tokenizer {
  clip_edge::core::Tokenizer tokenizer;
};

namespace clip_edge::core {
namespace {

constexpr size_t kLongestText = size_t{1} << 20;

// With `add_special_tokens=False` a post-processor adds nothing; one that repeats or leaves out the sentence would.
void check_post_processor(const Json &table, const std::string &where) {
  const std::string type(table["type"].string());
  if (type == "Sequence") return table["processors"].each([&](const Json &item) { check_post_processor(item, where); });
  if (type == "ByteLevel" || type == "BertProcessing" || type == "RobertaProcessing") return;
  if (type != "TemplateProcessing")
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the post-processor `%.40s` is not supported", where.c_str(), type.c_str());
  int sentences = 0;
  table["single"].each([&](const Json &piece) {
    Json unused = piece;
    if (piece.find("Sequence", &unused)) sentences++;
  });
  if (sentences != 1)
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: a template with one sentence is supported; found %d", where.c_str(),
         sentences);
}

clip_edge_text_spec default_text_spec() {
  return {sizeof(clip_edge_text_spec), 77, 49408, 0, 49406, 49407, CLIP_EDGE_CLEAN_CLIP};
}

}  // namespace

clip_edge_text_spec read_text_spec(const clip_edge_text_spec *from) {
  const clip_edge_text_spec spec = read_options(from, default_text_spec(), "spec");
  if (spec.context_length < 3 || spec.context_length > 4096)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`context_length` must lie in 3..4096; found %d",
         static_cast<int>(spec.context_length));
  if (spec.vocab_size < 3 || spec.vocab_size > 1 << 20)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`vocab_size` must lie in 3..%d; found %d", 1 << 20,
         static_cast<int>(spec.vocab_size));
  for (int32_t id : {spec.pad_id, spec.bos_id == CLIP_EDGE_NO_TOKEN ? 0 : spec.bos_id, spec.eos_id})
    if (id < 0 || id >= spec.vocab_size)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the pad, BOS and EOS ids must lie in 0..%d; found %d",
           static_cast<int>(spec.vocab_size - 1), static_cast<int>(id));
  if (spec.clean < CLIP_EDGE_CLEAN_NONE || spec.clean > CLIP_EDGE_CLEAN_WHITESPACE)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "unknown text cleaning %d", static_cast<int>(spec.clean));
  return spec;
}

Tokenizer::Tokenizer(std::string json, const std::string &name, const clip_edge_text_spec &spec)
    : spec_(spec), name_(name) {
  const JsonDocument document(std::move(json), name);
  const Json root = document.root();
  Json part = root;
  bool byte_level = false;
  // CLIP's cleaning does all; a normalizer in the file is there for other readers.
  const bool normalizes = spec.clean != CLIP_EDGE_CLEAN_CLIP && root.find("normalizer", &part) && !part.is_null();
  if (normalizes) normalizers_ = read_normalizers(part, name);
  if (root.find("pre_tokenizer", &part) && !part.is_null()) splitters_ = read_splitters(part, name, &byte_level);
  if (root.find("post_processor", &part) && !part.is_null()) check_post_processor(part, name);
  model_ = open_word_model(root["model"], byte_level, name);
  added_ = std::make_unique<AddedTokens>(root, normalizers_, name);
}

void Tokenizer::row(std::string_view utf8, int32_t *ids) const {
  if (utf8.size() > kLongestText)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "a text may have %zu bytes; found %zu", kLongestText, utf8.size());
  const std::u32string text = clean_text(from_utf8(utf8), spec_.clean);
  const size_t room = static_cast<size_t>(spec_.context_length) - 1;  // EOS always fits
  std::vector<int32_t> found;
  if (spec_.bos_id != CLIP_EDGE_NO_TOKEN) found.push_back(spec_.bos_id);
  for (const Segment &segment : added_->in_raw(text)) {
    if (found.size() >= room) break;
    if (segment.id >= 0)
      found.push_back(segment.id);
    else
      append_segment({text.substr(segment.span.start, segment.span.end - segment.span.start),
                      segment.span.start == 0 ? size_t{1} : size_t{0}},
                     room, found);
  }
  found.resize(std::min(found.size(), room));
  for (int32_t id : found)
    if (id >= spec_.vocab_size)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: expected token ids below %d; found %d", name_.c_str(),
           static_cast<int>(spec_.vocab_size), static_cast<int>(id));
  std::fill_n(ids, spec_.context_length, spec_.pad_id);
  std::copy(found.begin(), found.end(), ids);
  ids[found.size()] = spec_.eos_id;
}

void Tokenizer::append_segment(Text text, size_t room, std::vector<int32_t> &found) const {
  for (const TextStep &normalize : normalizers_) {
    normalize(text);
    if (text.points.size() > 8 * kLongestText)
      fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: its normalizer makes the text too long", name_.c_str());
  }
  for (const Segment &segment : added_->in_normalized(text.points)) {
    if (found.size() >= room) break;
    const Span span = segment.span;
    if (segment.id >= 0)
      found.push_back(segment.id);
    else
      append_words({text.points.substr(span.start, span.end - span.start), text.head - std::min(text.head, span.start)},
                   room, found);
  }
}

void Tokenizer::append_words(Text text, size_t room, std::vector<int32_t> &found) const {
  const size_t length = text.points.size();
  Words words{std::move(text.points), {{0, length}}, text.head};
  for (const SplitStep &split : splitters_) split(words);
  std::string word;
  for (const Span &span : words.spans) {
    if (found.size() >= room) break;
    word.clear();
    for (size_t i = span.start; i < span.end; i++) append_utf8(word, words.text[i]);
    if (!word.empty()) model_->encode(word, found);
  }
}

}  // namespace clip_edge::core

using namespace clip_edge::core;

extern "C" {

void clip_edge_text_spec_init(clip_edge_text_spec *spec, size_t struct_size) {
  write_options(spec, struct_size, default_text_spec());
}

clip_edge_status clip_edge_tokenizer_new(const char *json, size_t json_bytes, const clip_edge_text_spec *spec,
                                         clip_edge_tokenizer **tokenizer) {
  return guard([&] {
    need(json, "json");
    need(tokenizer, "tokenizer");
    *tokenizer = nullptr;
    *tokenizer =
        new clip_edge_tokenizer{Tokenizer(std::string(json, json_bytes), "tokenizer.json", read_text_spec(spec))};
  });
}

void clip_edge_tokenizer_free(clip_edge_tokenizer *tokenizer) { delete tokenizer; }

clip_edge_status clip_edge_tokenize_texts(const clip_edge_tokenizer *tokenizer, const char *const *texts,
                                          const size_t *lengths, size_t count, int32_t *ids, size_t capacity) {
  return guard([&] {
    need(tokenizer, "tokenizer");
    if (count == 0) return;
    need(texts, "texts");
    need(ids, "ids");
    const size_t row = static_cast<size_t>(tokenizer->tokenizer.spec().context_length);
    if (count > SIZE_MAX / row || capacity < count * row)
      fail(CLIP_EDGE_ERROR_BUFFER_TOO_SMALL, "`ids` needs room for %zu x %zu, it has room for %zu", count, row, capacity);
    for (size_t i = 0; i < count; i++) {
      need(texts[i], "texts[i]");
      const bool ends = lengths == nullptr || lengths[i] == CLIP_EDGE_NUL_TERMINATED;
      tokenizer->tokenizer.row({texts[i], ends ? std::strlen(texts[i]) : lengths[i]}, ids + i * row);
    }
  });
}

clip_edge_status clip_edge_tokenize(const clip_edge_tokenizer *tokenizer, const char *utf8, size_t length, int32_t *ids,
                                    size_t capacity) {
  return clip_edge_tokenize_texts(tokenizer, &utf8, &length, 1, ids, capacity);
}

}  // extern "C"
