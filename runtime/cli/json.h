// Writes JSON: a value is its text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace clip_edge::cli {

class Json {
 public:
  Json() : text_("null") {}
  Json(const std::string &value);
  Json(const char *value) : Json(std::string(value)) {}
  Json(double value);  // NaN and infinity become null
  Json(int64_t value) : text_(std::to_string(value)) {}
  Json(int32_t value) : Json(static_cast<int64_t>(value)) {}
  Json(bool value) : text_(value ? "true" : "false") {}
  Json(const std::vector<Json> &items);
  Json(const std::vector<std::pair<const char *, Json>> &members);

  const std::string &text() const { return text_; }

 private:
  std::string text_;
};

using Table = std::vector<std::pair<const char *, Json>>;
using List = std::vector<Json>;

}  // namespace clip_edge::cli
