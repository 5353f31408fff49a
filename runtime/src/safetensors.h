// The safetensors format: the length of a JSON header, the header, then the tensors without a gap. Files are hostile.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace clip_edge::core {

class Json;

struct Tensor {
  std::string type;  // "U8", "I8", "F16", "F32" or "I64"
  std::vector<size_t> shape;
  size_t start, bytes;  // in the file

  std::string written() const;  // the shape, for messages
};

// The tensors of a file. Every byte belongs to one of them: nothing overlaps, nothing hides. Throws Error.
class Tensors {
 public:
  static constexpr size_t kAny = 0;  // in a wanted shape: any size above 0

  Tensors(std::string_view file, const std::string &where);

  // The named tensor, removed from the table, when it has the type and shape.
  Tensor take(const std::string &name, const char *type, const std::vector<size_t> &shape);
  // The type of a tensor; empty where there is none of that name.
  std::string type_of(const std::string &name) const;
  size_t count(const char *prefix) const;
  void check_all_taken() const;
  // A text of the file's `__metadata__`; empty where there is none.
  std::string metadata(const std::string &key) const;

 private:
  [[noreturn]] void bad(const char *what) const;
  void add(const std::string &name, const Json &entry, size_t data, size_t end);
  void check_cover(size_t data, size_t end) const;

  std::string where_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace clip_edge::core
