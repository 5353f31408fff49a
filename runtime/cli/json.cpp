#include "json.h"

#include <cmath>
#include <cstdio>

namespace clip_edge::cli {

namespace {

// Bytes of the UTF-8 letter at `at`, 0 where there is none: file names and arguments may hold anything.
size_t letter_bytes(const std::string &text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(i < text.size() ? text[i] : 0); };
  const unsigned first = byte(at), second = byte(at + 1);
  const size_t length = first < 0x80   ? 1
                        : first < 0xC2 ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                        : first < 0xF5 ? 4
                                       : 0;
  for (size_t i = 1; i < length; i++)
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  const bool forbidden = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
                         (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);
  return forbidden ? 0 : length;
}

}  // namespace

Json::Json(const std::string &value) {
  text_ = "\"";
  for (size_t at = 0; at < value.size();) {
    const size_t length = letter_bytes(value, at);
    const auto first = static_cast<unsigned char>(value[at]);
    char code[8];
    if (length == 0) {
      text_ += "\\ufffd";
    } else if (first < 0x20) {
      std::snprintf(code, sizeof(code), "\\u%04x", static_cast<unsigned>(first));
      text_ += code;
    } else {
      if (first == '"' || first == '\\') text_ += '\\';
      text_.append(value, at, length);
    }
    at += length == 0 ? 1 : length;
  }
  text_ += '"';
}

Json::Json(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.9g", value);  // nine digits name a float exactly
  text_ = std::isfinite(value) ? text : "null";
}

Json::Json(const std::vector<Json> &items) {
  text_ = "[";
  for (const Json &item : items) text_ += (text_.size() > 1 ? ", " : "") + item.text();
  text_ += ']';
}

Json::Json(const std::vector<std::pair<const char *, Json>> &members) {
  text_ = "{";
  for (const auto &[key, value] : members)
    text_ += (text_.size() > 1 ? ", " : "") + Json(key).text() + ": " + value.text();
  text_ += '}';
}

}  // namespace clip_edge::cli
