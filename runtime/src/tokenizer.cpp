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

// Where `use_regex` is set, ByteLevel splits as GPT-2 did.
constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

bool flag(const Json &table, std::string_view key, bool otherwise) {
  Json value = table;
  return table.find(key, &value) ? value.boolean() : otherwise;
}

// The regular expression of {"Regex": ...}, or {"String": ...} with every character taken literally.
std::string expression_of(const Json &pattern) {
  Json value = pattern;
  if (pattern.find("Regex", &value)) return std::string(value.string());
  std::string escaped;
  for (char32_t point : from_utf8(pattern["String"].string())) {
    char text[16];
    std::snprintf(text, sizeof(text), "\\x{%x}", static_cast<unsigned>(point));
    escaped += text;
  }
  return escaped;
}

void strip(std::u32string &text, bool left, bool right) {
  size_t first = 0, last = text.size();
  while (left && first < last && is_unicode_space(text[first])) first++;
  while (right && last > first && is_unicode_space(text[last - 1])) last--;
  text = text.substr(first, last - first);
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
  for (int32_t id : {spec.pad_id, spec.bos_id, spec.eos_id})
    if (id < 0 || id >= spec.vocab_size)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the pad, BOS and EOS ids must lie in 0..%d; found %d",
           static_cast<int>(spec.vocab_size - 1), static_cast<int>(id));
  if (spec.clean != CLIP_EDGE_CLEAN_NONE && spec.clean != CLIP_EDGE_CLEAN_CLIP)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "unknown text cleaning %d", static_cast<int>(spec.clean));
  return spec;
}

Tokenizer::Tokenizer(std::string json, const std::string &name, const clip_edge_text_spec &spec)
    : spec_(spec), name_(name) {
  const JsonDocument document(std::move(json), name);
  const Json root = document.root();
  Json part = root;
  if (root.find("added_tokens", &part) && !part.items().empty())
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: added tokens are not supported", name.c_str());
  if (root.find("normalizer", &part) && !part.is_null()) add_normalizer(part);
  if (root.find("pre_tokenizer", &part) && !part.is_null()) add_splits(part);
  if (!byte_level_) fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: only byte-level tokenizers are supported", name.c_str());
  bpe_ = std::make_unique<Bpe>(root["model"], name);
}

void Tokenizer::add_normalizer(const Json &table) {
  const std::string type(table["type"].string());
  if (type == "Sequence") return table["normalizers"].each([this](const Json &item) { add_normalizer(item); });
  if (type == "Replace") return add_replacement(table);
  Step step = nullptr;
  if (type == "NFC")
    step = [](const Tokenizer &, const Replacement &, std::u32string &t) { t = normalize(t, Form::kNfc); };
  if (type == "NFD")
    step = [](const Tokenizer &, const Replacement &, std::u32string &t) { t = normalize(t, Form::kNfd); };
  if (type == "NFKC")
    step = [](const Tokenizer &, const Replacement &, std::u32string &t) { t = normalize(t, Form::kNfkc); };
  if (type == "NFKD")
    step = [](const Tokenizer &, const Replacement &, std::u32string &t) { t = normalize(t, Form::kNfkd); };
  if (type == "Lowercase") step = [](const Tokenizer &, const Replacement &, std::u32string &t) { t = lower_each(t); };
  if (type == "Strip") {
    if (!flag(table, "strip_left", true) || !flag(table, "strip_right", true))
      fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: Strip of one side is not supported", name_.c_str());
    step = [](const Tokenizer &, const Replacement &, std::u32string &t) { strip(t, true, true); };
  }
  if (step == nullptr)
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the normalizer `%.40s` is not supported", name_.c_str(), type.c_str());
  normalizers_.push_back({step, {}});
}

void Tokenizer::add_replacement(const Json &table) {
  Replacement replacement{std::make_unique<Pattern>(expression_of(table["pattern"]), name_),
                          from_utf8(table["content"].string())};
  const Step step = [](const Tokenizer &, const Replacement &what, std::u32string &text) {
    std::u32string out;
    size_t last = 0;
    for (const Span &span : what.pattern->matches(text)) {
      out.append(text, last, span.start - last);
      out += what.by;
      last = span.end;
    }
    text = out.append(text, last, std::u32string::npos);
  };
  normalizers_.push_back({step, std::move(replacement)});
}

void Tokenizer::add_splits(const Json &table) {
  const std::string type(table["type"].string());
  if (byte_level_) fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: ByteLevel must come last", name_.c_str());
  if (type == "Sequence") {
    table["pretokenizers"].each([this](const Json &item) { add_splits(item); });
  } else if (type == "Split") {
    add_split(table);
  } else if (type == "ByteLevel") {
    if (flag(table, "add_prefix_space", true))
      fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: `add_prefix_space` is not supported", name_.c_str());
    if (flag(table, "use_regex", true)) splits_.push_back({Pattern(kGpt2, name_), true, true});
    byte_level_ = true;
  } else {
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the pre-tokenizer `%.40s` is not supported", name_.c_str(), type.c_str());
  }
}

void Tokenizer::add_split(const Json &table) {
  const std::string behavior(table["behavior"].string());
  const bool invert = flag(table, "invert", false);
  if (behavior != "Isolated" && behavior != "Removed")
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: Split `%.40s` is not supported", name_.c_str(), behavior.c_str());
  const bool isolated = behavior == "Isolated";
  splits_.push_back({Pattern(expression_of(table["pattern"]), name_), isolated || invert, isolated || !invert});
}

std::vector<Span> Tokenizer::words(std::u32string_view text) const {
  std::vector<Span> pieces = {{0, text.size()}};
  for (const Split &split : splits_) {
    std::vector<Span> finer;
    for (const Span &piece : pieces) {
      size_t last = piece.start;
      const auto gap_until = [&](size_t end) {
        if (split.keep_gaps && end > last) finer.push_back({last, end});
      };
      for (const Span &match : split.pattern.matches(text.substr(piece.start, piece.end - piece.start))) {
        gap_until(piece.start + match.start);
        if (split.keep_matches) finer.push_back({piece.start + match.start, piece.start + match.end});
        last = piece.start + match.end;
      }
      gap_until(piece.end);
    }
    pieces = std::move(finer);
  }
  return pieces;
}

void Tokenizer::row(std::string_view utf8, int32_t *ids) const {
  if (utf8.size() > kLongestText)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "a text may have %zu bytes; found %zu", kLongestText, utf8.size());
  std::u32string text = from_utf8(utf8);
  if (spec_.clean == CLIP_EDGE_CLEAN_CLIP) text = clean_clip(text);
  for (const Normalizer &normalizer : normalizers_) normalizer.step(*this, normalizer.replacement, text);
  const size_t room = static_cast<size_t>(spec_.context_length) - 2;
  std::vector<int32_t> found;
  std::string word;
  for (const Span &span : words(text)) {
    if (found.size() >= room) break;
    word.clear();
    for (size_t i = span.start; i < span.end; i++) append_utf8(word, text[i]);
    if (!word.empty()) bpe_->encode(word, found);
  }
  found.resize(std::min(found.size(), room));
  for (int32_t id : found)
    if (id >= spec_.vocab_size)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: expected token ids below %d; found %d", name_.c_str(),
           static_cast<int>(spec_.vocab_size), static_cast<int>(id));
  std::fill_n(ids, spec_.context_length, spec_.pad_id);
  ids[0] = spec_.bos_id;
  std::copy(found.begin(), found.end(), ids + 1);
  ids[found.size() + 1] = spec_.eos_id;
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

clip_edge_status clip_edge_tokenize(const clip_edge_tokenizer *tokenizer, const char *utf8, size_t length, int32_t *ids,
                                    size_t capacity) {
  return guard([&] {
    need(tokenizer, "tokenizer");
    need(utf8, "utf8");
    need(ids, "ids");
    const size_t needed = static_cast<size_t>(tokenizer->tokenizer.spec().context_length);
    if (capacity < needed)
      fail(CLIP_EDGE_ERROR_BUFFER_TOO_SMALL, "`ids` needs room for %zu, it has room for %zu", needed, capacity);
    tokenizer->tokenizer.row({utf8, length == CLIP_EDGE_NUL_TERMINATED ? std::strlen(utf8) : length}, ids);
  });
}

}  // extern "C"
