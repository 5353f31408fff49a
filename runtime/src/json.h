// A strict JSON reader for hostile files: bounded depth, no duplicate keys in small tables, UTF-8 checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace clip_edge::core {

enum class JsonKind : uint8_t { kNull, kFalse, kTrue, kNumber, kString, kArray, kObject };

class JsonDocument;

// One value of a document; cheap to copy. Accessors throw Error (bad format) naming the file and the key.
class Json {
 public:
  Json(const JsonDocument *document, uint32_t node) : document_(document), node_(node) {}

  JsonKind kind() const;
  bool is(JsonKind wanted) const { return kind() == wanted; }
  bool is_null() const { return is(JsonKind::kNull); }

  std::string_view string() const;
  bool boolean() const;
  double number() const;
  double quick_number() const;  // as the package `tokenizers` reads it: not always the nearest double
  int64_t integer(int64_t least, int64_t greatest) const;

  Json operator[](std::string_view key) const;  // fails where the key is missing
  bool find(std::string_view key, Json *value) const;
  void only(std::initializer_list<std::string_view> keys) const;  // fails on any other key of this table

  std::vector<Json> items() const;  // of an array
  template <class Visit>            // visit(key, value) for every member of an object
  void members(Visit visit) const;
  template <class Visit>
  void each(Visit visit) const;  // visit(value) for every item of an array

 private:
  friend class JsonDocument;
  friend class JsonParser;
  [[noreturn]] void wrong(const char *expected) const;
  void expect(JsonKind wanted, const char *name) const;
  uint32_t child() const;
  uint32_t next(uint32_t node) const;
  std::string_view text(uint32_t node) const;

  const JsonDocument *document_;
  uint32_t node_;
};

class JsonDocument {
 public:
  // Parses `text`; `name` stands in error messages. Throws Error.
  JsonDocument(std::string text, std::string name);
  JsonDocument(const JsonDocument &) = delete;
  JsonDocument &operator=(const JsonDocument &) = delete;

  Json root() const { return Json(this, 0); }
  const std::string &name() const { return name_; }

 private:
  friend class Json;
  friend class JsonParser;
  struct Node {
    JsonKind kind;
    uint32_t child = 0;              // first item or key; 0: none (node 0 is the root, nobody's child)
    uint32_t next = 0;               // the next item or key; the value of a key is its child
    uint32_t start = 0, length = 0;  // of the text of a number or string
  };
  std::string text_, name_;  // strings are decoded in place
  std::vector<Node> nodes_;
};

inline uint32_t Json::child() const { return document_->nodes_[node_].child; }
inline uint32_t Json::next(uint32_t node) const { return document_->nodes_[node].next; }
inline std::string_view Json::text(uint32_t node) const {
  const JsonDocument::Node &n = document_->nodes_[node];
  return std::string_view(document_->text_).substr(n.start, n.length);
}

template <class Visit>
void Json::members(Visit visit) const {
  expect(JsonKind::kObject, "a table");
  for (uint32_t key = child(); key != 0; key = next(key))
    visit(text(key), Json(document_, document_->nodes_[key].child));
}

template <class Visit>
void Json::each(Visit visit) const {
  expect(JsonKind::kArray, "a list");
  for (uint32_t item = child(); item != 0; item = next(item)) visit(Json(document_, item));
}

}  // namespace clip_edge::core
