// Where the files of a bundle come from: a folder, the app's memory, or a tar archive inside of another file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "clip_edge/clip_edge.h"

namespace clip_edge::core {

constexpr const char *kManifestName = "manifest.json";
constexpr size_t kMostFiles = 10000;

// Any number of threads may read at the same time. Everything throws Error.
class Source {
 public:
  explicit Source(std::string where) : where_(std::move(where)) {}
  virtual ~Source() = default;

  const std::string &where() const { return where_; }  // stands in messages
  std::string path(const std::string &name) const { return where_ + "/" + name; }

  // The bytes of a file.
  virtual std::string read(const std::string &name, size_t max_bytes) const = 0;
  // Every file that is there, with its size.
  virtual std::map<std::string, int64_t> list() const = 0;
  // Whether files that the manifest lists may be missing, as long as nobody reads them.
  virtual bool may_be_partial() const { return false; }

 private:
  std::string where_;
};

// Links and anything else that is no plain file are refused, when listed and when read.
std::unique_ptr<Source> open_folder(const std::string &folder);
// The memory stays the caller's and must stay as it is.
std::unique_ptr<Source> open_files(const clip_edge_file *files, size_t count);
// An uncompressed ustar archive of a bundle folder at `offset` of an open file; `length` -1: up to the file's end.
std::unique_ptr<Source> open_archive(int descriptor, int64_t offset, int64_t length);

// Neither absolute nor with `..`, empty or hidden parts: the file lies inside of the folder.
bool stays_inside(const std::string &name);
// What is read of an open file from `offset` on; fails where it is cut off.
void read_exactly(int descriptor, int64_t offset, char *to, size_t bytes, const std::string &where);
// Fails where more than `max_bytes` would be read.
void check_size(uint64_t bytes, size_t max_bytes, const std::string &where);

// An open file that is closed.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor();
  Descriptor(const Descriptor &) = delete;
  Descriptor &operator=(const Descriptor &) = delete;
  int get() const { return number_; }

 private:
  int number_;
};

}  // namespace clip_edge::core
