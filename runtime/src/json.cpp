#include "json.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include <locale.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

#include "status.h"
#include "unicode.h"

namespace clip_edge::core {
namespace {
constexpr int kDeepest = 64;
constexpr size_t kLargest = size_t{64} << 20;
constexpr size_t kCheckedForDuplicates = 512;  // larger tables are vocabularies, whose reader checks

// Nearest to the digits, whatever the app's locale: in half of Europe, strtod ends at the decimal point.
double nearest_double(const char *digits) {
  static const locale_t plain = newlocale(LC_ALL_MASK, "C", static_cast<locale_t>(nullptr));
  if (plain == static_cast<locale_t>(nullptr)) throw std::bad_alloc();
  return strtod_l(digits, nullptr, plain);
}

}  // namespace

class JsonParser {
 public:
  explicit JsonParser(JsonDocument &document) : document_(document), text_(document.text_) {}

  void parse() {
    document_.nodes_.reserve(text_.size() / 12);
    skip_space();
    value(0);
    skip_space();
    if (at_ != text_.size()) bad("something follows the value");
  }

 private:
  using Node = JsonDocument::Node;

  [[noreturn]] void bad(const char *what) const {
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: not JSON: %s at byte %zu", document_.name_.c_str(), what, at_);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      at_++;
  }

  uint32_t add(JsonKind kind) {
    document_.nodes_.push_back({kind, 0, 0, 0, 0});
    return static_cast<uint32_t>(document_.nodes_.size() - 1);
  }

  uint32_t value(int depth) {
    if (depth > kDeepest) bad("nested too deeply");
    switch (peek()) {
      case '{': return object(depth);
      case '[': return array(depth);
      case '"': return string();
      case 't': return word("true", JsonKind::kTrue);
      case 'f': return word("false", JsonKind::kFalse);
      case 'n': return word("null", JsonKind::kNull);
      default: return number();
    }
  }

  uint32_t word(std::string_view name, JsonKind kind) {
    if (text_.compare(at_, name.size(), name) != 0) bad("unknown word");
    at_ += name.size();
    return add(kind);
  }

  uint32_t array(int depth) {
    const uint32_t node = add(JsonKind::kArray);
    uint32_t last = 0;
    at_++;
    skip_space();
    if (peek() == ']') return at_++, node;
    for (;;) {
      skip_space();
      const uint32_t item = value(depth + 1);
      link(node, &last, item);
      skip_space();
      if (peek() == ']') return at_++, node;
      if (peek() != ',') bad("`,` or `]` expected");
      at_++;
    }
  }

  uint32_t object(int depth) {
    const uint32_t node = add(JsonKind::kObject);
    uint32_t last = 0;
    size_t count = 0;
    at_++;
    skip_space();
    if (peek() == '}') return at_++, node;
    for (;;) {
      skip_space();
      if (peek() != '"') bad("a key expected");
      const uint32_t key = string();
      if (count++ < kCheckedForDuplicates) refuse_duplicate(node, key);
      link(node, &last, key);
      skip_space();
      if (peek() != ':') bad("`:` expected");
      at_++;
      skip_space();
      const uint32_t child = value(depth + 1);
      document_.nodes_[key].child = child;
      skip_space();
      if (peek() == '}') return at_++, node;
      if (peek() != ',') bad("`,` or `}` expected");
      at_++;
    }
  }

  void link(uint32_t parent, uint32_t *last, uint32_t node) {
    (*last == 0 ? document_.nodes_[parent].child : document_.nodes_[*last].next) = node;
    *last = node;
  }

  void refuse_duplicate(uint32_t object, uint32_t key) const {
    const Json table(&document_, object);
    for (uint32_t other = table.child(); other != 0; other = table.next(other))
      if (table.text(other) == table.text(key)) bad("a key stands twice");
  }

  uint32_t number() {
    const size_t start = at_;
    if (peek() == '-') at_++;
    if (!digits() || (text_[start + (text_[start] == '-')] == '0' && at_ - start > size_t{1} + (text_[start] == '-')))
      bad("a value expected");
    if (peek() == '.' && (at_++, !digits())) bad("digits expected");
    if (peek() == 'e' || peek() == 'E') {
      at_++;
      if (peek() == '+' || peek() == '-') at_++;
      if (!digits()) bad("digits expected");
    }
    const uint32_t node = add(JsonKind::kNumber);
    document_.nodes_[node].start = static_cast<uint32_t>(start);
    document_.nodes_[node].length = static_cast<uint32_t>(at_ - start);
    return node;
  }

  bool digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') at_++;
    return at_ > start;
  }

  // Decodes in place: what an escape stands for is never longer than the escape.
  uint32_t string() {
    const size_t start = ++at_;
    size_t out = start;
    while (peek() != '"') {
      if (at_ >= text_.size() || static_cast<uint8_t>(text_[at_]) < 0x20) bad("a string does not end");
      if (text_[at_] != '\\') {
        text_[out++] = text_[at_++];
      } else {
        std::string decoded;
        escape(decoded);
        for (char byte : decoded) text_[out++] = byte;
      }
    }
    at_++;
    const uint32_t node = add(JsonKind::kString);
    document_.nodes_[node].start = static_cast<uint32_t>(start);
    document_.nodes_[node].length = static_cast<uint32_t>(out - start);
    return node;
  }

  void escape(std::string &out) {
    at_++;
    const char kind = peek();
    at_++;
    static constexpr char kNames[] = "\"\\/bfnrt", kMeanings[] = "\"\\/\b\f\n\r\t";
    if (kind == 'u') {
      char32_t point = hex4();
      if (point >= 0xDC00 && point < 0xE000) bad("half a surrogate pair");
      if (point >= 0xD800 && point < 0xDC00) {
        if (text_.compare(at_, 2, "\\u") != 0) bad("half a surrogate pair");
        at_ += 2;
        const char32_t second = hex4();
        if (second < 0xDC00 || second >= 0xE000) bad("half a surrogate pair");
        point = 0x10000 + ((point - 0xD800) << 10) + (second - 0xDC00);
      }
      append_utf8(out, point);
      return;
    }
    for (int i = 0; kNames[i] != '\0'; i++)
      if (kNames[i] == kind) return out.push_back(kMeanings[i]);
    bad("unknown escape");
  }

  char32_t hex4() {
    char32_t value = 0;
    for (int i = 0; i < 4; i++, at_++) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) bad("four hexadecimal digits expected");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    return value;
  }

  JsonDocument &document_;
  std::string &text_;
  size_t at_ = 0;
};

JsonDocument::JsonDocument(std::string text, std::string name) : text_(std::move(text)), name_(std::move(name)) {
  if (text_.size() > kLargest)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: at most %zu bytes are read; found %zu", name_.c_str(), kLargest, text_.size());
  if (!is_utf8(text_)) fail(CLIP_EDGE_ERROR_FORMAT, "%s: not UTF-8", name_.c_str());
  JsonParser(*this).parse();
}

JsonKind Json::kind() const { return document_->nodes_[node_].kind; }

void Json::wrong(const char *expected) const {
  static const char *const kNames[] = {"null", "false", "true", "a number", "a string", "a list", "a table"};
  fail(CLIP_EDGE_ERROR_FORMAT, "%s: %s expected; found %s", document_->name_.c_str(), expected,
       kNames[static_cast<int>(kind())]);
}

void Json::expect(JsonKind wanted, const char *name) const {
  if (kind() != wanted) wrong(name);
}

std::string_view Json::string() const {
  expect(JsonKind::kString, "a string");
  return text(node_);
}

bool Json::boolean() const {
  if (!is(JsonKind::kTrue) && !is(JsonKind::kFalse)) wrong("true or false");
  return is(JsonKind::kTrue);
}

double Json::number() const {
  expect(JsonKind::kNumber, "a number");
  const double value = nearest_double(std::string(text(node_)).c_str());
  if (!std::isfinite(value)) fail(CLIP_EDGE_ERROR_FORMAT, "%s: a finite number expected", document_->name_.c_str());
  return value;
}

// Digits as one whole number while they fit in 64 bits, then a power of ten.
double Json::quick_number() const {
  expect(JsonKind::kNumber, "a number");
  const std::string_view digits = text(node_);
  uint64_t whole = 0;
  int64_t power = 0;
  bool fraction = false, full = false;
  size_t i = digits[0] == '-' ? 1 : 0;
  for (; i < digits.size() && digits[i] != 'e' && digits[i] != 'E'; i++) {
    fraction = fraction || digits[i] == '.';
    if (digits[i] == '.') continue;
    const uint64_t digit = static_cast<uint64_t>(digits[i] - '0');
    full = full || whole > (UINT64_MAX - digit) / 10;
    if (!full) whole = whole * 10 + digit;
    power += fraction == full ? 0 : full ? 1 : -1;
  }
  if (i < digits.size()) power += std::strtol(std::string(digits.substr(i + 1)).c_str(), nullptr, 10);
  double value = static_cast<double>(whole);
  const auto ten_to = [](int64_t n) { return nearest_double(("1e" + std::to_string(n)).c_str()); };
  for (; power < -308 && value != 0; power += 308) value /= 1e308;
  value = value == 0 ? value : power < 0 ? value / ten_to(-power) : value * ten_to(std::min<int64_t>(power, 400));
  if (!std::isfinite(value)) fail(CLIP_EDGE_ERROR_FORMAT, "%s: a finite number expected", document_->name_.c_str());
  return digits[0] == '-' ? -value : value;
}

int64_t Json::integer(int64_t least, int64_t greatest) const {
  const double value = number();
  if (value != std::floor(value) || value < static_cast<double>(least) || value > static_cast<double>(greatest))
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: a whole number in %lld..%lld expected; found %g", document_->name_.c_str(),
         static_cast<long long>(least), static_cast<long long>(greatest), value);
  return static_cast<int64_t>(value);
}

bool Json::find(std::string_view key, Json *value) const {
  expect(JsonKind::kObject, "a table");
  for (uint32_t node = child(); node != 0; node = next(node)) {
    if (text(node) != key) continue;
    *value = Json(document_, document_->nodes_[node].child);
    return true;
  }
  return false;
}

Json Json::operator[](std::string_view key) const {
  Json value = *this;
  if (!find(key, &value))
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: missing key: `%s`", document_->name_.c_str(), std::string(key).c_str());
  return value;
}

void Json::only(std::initializer_list<std::string_view> keys) const {
  members([&](std::string_view key, Json) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: unknown key: `%.60s`", document_->name_.c_str(), std::string(key).c_str());
  });
}

std::vector<Json> Json::items() const {
  std::vector<Json> all;
  each([&](Json item) { all.push_back(item); });
  return all;
}

}  // namespace clip_edge::core
