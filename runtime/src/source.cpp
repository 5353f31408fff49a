#include "source.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "status.h"

namespace clip_edge::core {
namespace {

constexpr int kMostDepth = 32;  // of folders in folders

class Folder : public Source {
 public:
  using Source::Source;

  std::string read(const std::string &name, size_t max_bytes) const override {
    const std::string file_path = path(name);
    const Descriptor file(open(file_path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (file.get() < 0) fail(CLIP_EDGE_ERROR_IO, "%s: %s", file_path.c_str(), std::strerror(errno));
    struct stat info;
    if (fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))
      fail(CLIP_EDGE_ERROR_IO, "%s: not a file", file_path.c_str());
    check_size(static_cast<uint64_t>(info.st_size), max_bytes, file_path);
    std::string bytes(static_cast<size_t>(info.st_size), '\0');
    read_exactly(file.get(), 0, &bytes[0], bytes.size(), file_path);
    return bytes;
  }

  std::map<std::string, int64_t> list() const override {
    std::map<std::string, int64_t> found;
    walk("", found, 0);
    return found;
  }

 private:
  void walk(const std::string &prefix, std::map<std::string, int64_t> &found, int depth) const {
    const std::string folder = prefix.empty() ? where() : path(prefix);
    const std::unique_ptr<DIR, int (*)(DIR *)> stream(opendir(folder.c_str()), closedir);
    if (stream == nullptr) fail(CLIP_EDGE_ERROR_IO, "%s: %s", folder.c_str(), std::strerror(errno));
    while (const dirent *entry = readdir(stream.get())) {
      const std::string part = entry->d_name;
      if (part == "." || part == "..") continue;
      const std::string name = prefix.empty() ? part : prefix + "/" + part;
      struct stat info;
      if (lstat(path(name).c_str(), &info) != 0)
        fail(CLIP_EDGE_ERROR_IO, "%s: %s", path(name).c_str(), std::strerror(errno));
      if (S_ISLNK(info.st_mode)) fail(CLIP_EDGE_ERROR_FORMAT, "%s: a link in the bundle", path(name).c_str());
      if (S_ISDIR(info.st_mode) && depth < kMostDepth) {
        walk(name, found, depth + 1);
      } else {
        if (!S_ISREG(info.st_mode)) fail(CLIP_EDGE_ERROR_FORMAT, "%s: not a file", path(name).c_str());
        found.emplace(name, info.st_size);
      }
      if (found.size() > kMostFiles + 1)
        fail(CLIP_EDGE_ERROR_FORMAT, "%s: more than %zu files", where().c_str(), kMostFiles);
    }
  }
};

class Memory : public Source {
 public:
  Memory(const clip_edge_file *files, size_t count) : Source("memory") {
    if (count > kMostFiles + 1) fail(CLIP_EDGE_ERROR_FORMAT, "memory: more than %zu files", kMostFiles);
    for (size_t i = 0; i < count; i++) {
      need(files[i].name, "files[i].name");
      if (files[i].bytes > 0) need(files[i].data, "files[i].data");
      const std::string_view content(static_cast<const char *>(files[i].data), files[i].bytes);
      if (!stays_inside(files[i].name) || !files_.emplace(files[i].name, content).second)
        fail(CLIP_EDGE_ERROR_FORMAT, "memory: a name that no bundle has, or given twice: `%.200s`", files[i].name);
    }
  }

  std::string read(const std::string &name, size_t max_bytes) const override {
    const auto entry = files_.find(name);
    if (entry == files_.end()) fail(CLIP_EDGE_ERROR_IO, "%s: not among the given files", path(name).c_str());
    check_size(entry->second.size(), max_bytes, path(name));
    return std::string(entry->second);
  }

  std::map<std::string, int64_t> list() const override {
    std::map<std::string, int64_t> found;
    for (const auto &[name, content] : files_) found.emplace(name, static_cast<int64_t>(content.size()));
    return found;
  }

  bool may_be_partial() const override { return true; }

 private:
  std::map<std::string, std::string_view> files_;
};

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

bool stays_inside(const std::string &name) {
  if (name.empty() || name.size() > 1024 || name.find('\\') != std::string::npos ||
      name.find('\0') != std::string::npos)
    return false;
  size_t start = 0;
  while (start <= name.size()) {
    const size_t end = std::min(name.find('/', start), name.size());
    const std::string part = name.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return false;
    start = end + 1;
  }
  return true;
}

void read_exactly(int descriptor, int64_t offset, char *to, size_t bytes, const std::string &where) {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t count = pread(descriptor, to + done, bytes - done, offset + static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(CLIP_EDGE_ERROR_IO, "%s: %s", where.c_str(), std::strerror(errno));
    if (count == 0) fail(CLIP_EDGE_ERROR_IO, "%s: cut off at byte %zu", where.c_str(), done);
    done += static_cast<size_t>(count);
  }
}

void check_size(uint64_t bytes, size_t max_bytes, const std::string &where) {
  if (bytes > max_bytes)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: at most %zu bytes are read; found %llu", where.c_str(), max_bytes,
         static_cast<unsigned long long>(bytes));
}

std::unique_ptr<Source> open_folder(const std::string &folder) { return std::make_unique<Folder>(folder); }

std::unique_ptr<Source> open_files(const clip_edge_file *files, size_t count) {
  return std::make_unique<Memory>(files, count);
}

}  // namespace clip_edge::core
