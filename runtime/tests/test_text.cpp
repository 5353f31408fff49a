// JSON, patterns, Unicode, cleaning and tokenizers by themselves: known answers, and refusals with their texts.
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "clean.h"
#include "json.h"
#include "pattern.h"
#include "status.h"
#include "unicode.h"

using namespace clip_edge::core;

namespace {

std::string refusal(const std::function<void()> &body) {
  try {
    body();
    return "";
  } catch (const Error &error) {
    return error.text;
  }
}

std::string json_refusal(const std::string &text) {
  return refusal([&] { JsonDocument document(text, "x.json"); });
}

void json_is_strict() {
  const JsonDocument document(R"({"a": [1, -2.5e1, "\u00e9\ud83d\ude00\n"], "b": {"c": null, "d": true}})", "x.json");
  const Json root = document.root();
  CHECK(root["a"].items()[0].integer(0, 5) == 1);
  CHECK(root["a"].items()[1].number() == -25.0);
  CHECK_TEXT(std::string(root["a"].items()[2].string()), "é😀\n");
  CHECK(root["b"]["d"].boolean() && root["b"]["c"].is_null());
  CHECK_TEXT(refusal([&] { root["z"]; }), "x.json: missing key: `z`");
  CHECK_TEXT(refusal([&] { root["a"].string(); }), "x.json: a string expected; found a list");
  CHECK_TEXT(refusal([&] { root["a"].items()[1].integer(0, 9); }),
             "x.json: a whole number in 0..9 expected; found -25");
  CHECK_TEXT(refusal([&] { root.only({"a"}); }), "x.json: unknown key: `b`");
  CHECK_TEXT(json_refusal("{\"a\":1,\"a\":2}"), "x.json: not JSON: a key stands twice at byte 10");
  CHECK_TEXT(json_refusal(std::string(100, '[')), "x.json: not JSON: nested too deeply at byte 65");
  CHECK_TEXT(json_refusal("\"\xff\""), "x.json: not UTF-8");
  for (const char *bad :
       {"", "{", "[1,]", "{\"a\"}", "01", "1.", "+1", "nul", "\"\\x\"", "\"\\ud800\"", "1 2", "\"a\nb\"", "NaN"})
    CHECK(!json_refusal(bad).empty());
}

std::string split(const char *expression, std::u32string_view text) {
  std::string all;
  for (const Span &span : Pattern(expression, "x").matches(text))
    all += "[" + to_utf8(text.substr(span.start, span.end - span.start)) + "]";
  return all;
}

void patterns_match_as_backtracking_engines_do() {
  CHECK_TEXT(split(R"('s|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+)", U"it's 42 dogs!? né"), "[it]['s][4][2][dogs][!?][né]");
  CHECK_TEXT(split(R"( ?\p{L}+|\s+(?!\S)|\s+)", U"a  b   "), "[a][ ][ b][   ]");
  CHECK_TEXT(split(R"((?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})", U"I'T 12345"), "[I]['T][123][45]");
  CHECK_TEXT(split(R"([\x{61}-\x{63}]+x?)", U"abcabcxz"), "[abcabcx]");
  CHECK_TEXT(split(R"(a(?:b|c)?d)", U"abd acd ad aed"), "[abd][acd][ad]");
  CHECK_TEXT(refusal([] { Pattern("(a)", "x"); }),
             "x: a pattern with a capturing group (at character 0) is not supported");
  for (const char *bad : {"(?:a", "a)", "[a", "a{2", "a+?", "(?:a)+", "\\d", "\\x{110000}", "^a", "*", "[b-a]"})
    CHECK(!refusal([&] { Pattern(bad, "x"); }).empty());
}

void runaway_patterns_are_stopped() {
  std::string expression;
  for (int i = 0; i < 12; i++) expression += "a*";
  CHECK_TEXT(refusal([&] { Pattern(expression + "b", "x").matches(std::u32string(5000, U'a')); }),
             "the tokenizer's pattern takes too long on this text");
}

std::string clean(const char *text) { return to_utf8(clean_text(from_utf8(text), CLIP_EDGE_CLEAN_CLIP)); }

void cleaning_gives_known_answers() {
  CHECK_TEXT(clean("  Fish &amp;amp; Chips\t\n &#39;nice&#39; "), "fish & chips 'nice'");
  CHECK_TEXT(clean("“Curly” ﬁne ＦＵＬＬ　ｗｉｄｔｈ"), "\"curly\" fine full width");
  CHECK_TEXT(clean("ΟΔΟΣ"), "οδος");
  CHECK_TEXT(clean("\x1b[31mred\x1b[0m \xef\xbb\xbf!"), "red !");
  CHECK_TEXT(clean("e\xcc\x81"), "é");
  CHECK_TEXT(clean(""), "");
}

void normal_forms() {
  CHECK_TEXT(to_utf8(normalize(U"각", Form::kNfd)), "\u1100\u1161\u11a8");
  CHECK_TEXT(to_utf8(normalize(U"\u1100\u1161\u11a8", Form::kNfc)), "각");
  CHECK_TEXT(to_utf8(normalize(U"\uFB01\u2460", Form::kNfkc)), "fi1");
  CHECK_TEXT(to_utf8(normalize(U"a\u0323\u0302", Form::kNfc)), "ậ");
  CHECK_TEXT(to_utf8(from_utf8("a\xff\xe2\x82z")), "a\ufffd\ufffdz");
}

// A byte-level vocabulary with one merge: what every valid file has, as small as it can be.
std::string small_tokenizer(const std::string &extra = "") {
  std::string vocabulary;
  int next = 256;
  for (int byte = 0, id = 0; byte < 256; byte++) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string name;
    append_utf8(name, static_cast<char32_t>(printable ? byte : next++));
    if (name == "\"" || name == "\\") name.insert(0, "\\");
    vocabulary += "\"" + name + "\":" + std::to_string(id++) + ",";
  }
  return R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)" + extra +
         R"("model":{"type":"BPE","vocab":{)" + vocabulary + R"("ab":256},"merges":[["a","b"]]}})";
}

void tokenizers_answer_and_refuse() {
  clip_edge_text_spec spec;
  clip_edge_text_spec_init(&spec, sizeof(spec));
  spec.context_length = 6, spec.vocab_size = 300, spec.pad_id = 0, spec.bos_id = 298, spec.eos_id = 299;
  spec.clean = CLIP_EDGE_CLEAN_NONE;
  clip_edge_tokenizer *tokenizer = nullptr;
  std::string json = small_tokenizer();
  CHECK(clip_edge_tokenizer_new(json.data(), json.size(), &spec, &tokenizer) == CLIP_EDGE_OK);
  int32_t ids[6];
  const auto tokenize = [&](const char *text) {
    return clip_edge_tokenize(tokenizer, text, CLIP_EDGE_NUL_TERMINATED, ids, 6);
  };
  CHECK(tokenize("ab c") == CLIP_EDGE_OK);
  const int32_t expected[6] = {298, 256, ' ', 'c', 299, 0};
  CHECK(std::memcmp(ids, expected, sizeof(ids)) == 0);
  CHECK(tokenize("abcdefgh") == CLIP_EDGE_OK && ids[5] == 299 && ids[1] == 256 && ids[4] == 'e');
  CHECK(clip_edge_tokenize(tokenizer, "a", 1, ids, 5) == CLIP_EDGE_ERROR_BUFFER_TOO_SMALL);
  CHECK_TEXT(clip_edge_last_error(), "`ids` needs room for 1 x 6, it has room for 5");
  clip_edge_tokenizer_free(tokenizer);
  clip_edge_tokenizer_free(nullptr);
  json = small_tokenizer();
  json.resize(json.size() / 2);
  CHECK(clip_edge_tokenizer_new(json.data(), json.size(), &spec, &tokenizer) == CLIP_EDGE_ERROR_FORMAT);
  CHECK(tokenizer == nullptr);
}

}  // namespace

int main() {
  json_is_strict();
  patterns_match_as_backtracking_engines_do();
  runaway_patterns_are_stopped();
  cleaning_gives_known_answers();
  normal_forms();
  tokenizers_answer_and_refuse();
  return finish();
}
