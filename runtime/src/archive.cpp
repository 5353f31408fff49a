// A bundle inside of an uncompressed ustar archive (IEEE Std 1003.1, "pax": ustar Interchange Format), such as one that
// lies in an Android package: the system hands out a file descriptor, an offset and a length.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "source.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr int64_t kBlock = 512;
constexpr size_t kMostHeaders = 2 * kMostFiles;  // files and folders

// One header; text fields end at their first zero or with their field.
struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2],
      owner[32], group[32], major[8], minor[8], prefix[155], rest[12];
};
static_assert(sizeof(Header) == kBlock, "a header is one block");

template <size_t N>
std::string text_of(const char (&field)[N]) {
  return std::string(field, strnlen(field, N));
}

template <size_t N>
int64_t octal(const char (&field)[N], const std::string &where) {
  int64_t value = 0;
  size_t digits = 0;
  for (size_t i = 0; i < N && field[i] != '\0' && (field[i] != ' ' || digits == 0); i++) {
    if (field[i] == ' ') continue;
    if (field[i] < '0' || field[i] > '7' || ++digits > 11)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: a damaged header", where.c_str());
    value = value * 8 + (field[i] - '0');
  }
  if (digits == 0) fail(CLIP_EDGE_ERROR_FORMAT, "%s: a damaged header", where.c_str());
  return value;
}

// The sum of the header's bytes, its own field read as spaces.
int64_t checksum_of(const Header &header) {
  const auto *bytes = reinterpret_cast<const unsigned char *>(&header);
  int64_t sum = 0;
  for (size_t i = 0; i < sizeof(header); i++)
    sum += i >= offsetof(Header, checksum) && i < offsetof(Header, type) ? ' ' : bytes[i];
  return sum;
}

class Archive : public Source {
 public:
  Archive(int descriptor, int64_t offset, int64_t length) : Source("archive"), file_(duplicate(descriptor)) {
    struct stat info;
    if (fstat(file_.get(), &info) != 0 || !S_ISREG(info.st_mode))
      fail(CLIP_EDGE_ERROR_IO, "archive: the descriptor names no plain file");
    const int64_t room = info.st_size - offset;
    if (offset < 0 || room < 0 || length < -1 || length > room)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "archive: offset %lld and length %lld do not lie in a file of %lld bytes",
           static_cast<long long>(offset), static_cast<long long>(length), static_cast<long long>(info.st_size));
    read_headers(offset, offset + (length < 0 ? room : length));
  }

  std::string read(const std::string &name, size_t max_bytes) const override {
    const auto entry = entries_.find(name);
    if (entry == entries_.end()) fail(CLIP_EDGE_ERROR_IO, "%s: not in the archive", path(name).c_str());
    check_size(static_cast<uint64_t>(entry->second.bytes), max_bytes, path(name));
    std::string bytes(static_cast<size_t>(entry->second.bytes), '\0');
    read_exactly(file_.get(), entry->second.start, &bytes[0], bytes.size(), path(name));
    return bytes;
  }

  std::map<std::string, int64_t> list() const override {
    std::map<std::string, int64_t> found;
    for (const auto &[name, entry] : entries_) found.emplace(name, entry.bytes);
    return found;
  }

 private:
  struct Entry {
    int64_t start, bytes;
  };

  static int duplicate(int descriptor) {
    const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) fail(CLIP_EDGE_ERROR_IO, "archive: %s", std::strerror(errno));
    return copy;
  }

  void read_headers(int64_t at, int64_t end) {
    size_t headers = 0;
    while (end - at >= kBlock) {
      Header header;
      read_exactly(file_.get(), at, reinterpret_cast<char *>(&header), sizeof(header), where());
      at += kBlock;
      if (header.name[0] == '\0') return;  // blocks of zeros end the archive
      if (std::memcmp(header.magic, "ustar", 5) != 0)
        fail(CLIP_EDGE_ERROR_FORMAT, "archive: not a tar file of the ustar format");
      if (octal(header.checksum, where()) != checksum_of(header) || ++headers > kMostHeaders)
        fail(CLIP_EDGE_ERROR_FORMAT, "archive: a damaged header");
      const int64_t bytes = octal(header.size, where());
      if (bytes > end - at) fail(CLIP_EDGE_ERROR_FORMAT, "archive: it is cut off");
      add(header, at, bytes);
      at += std::min((bytes + kBlock - 1) / kBlock * kBlock, end - at);
    }
  }

  void add(const Header &header, int64_t start, int64_t bytes) {
    const bool posix = header.magic[5] == '\0';  // GNU's variant uses the prefix otherwise
    const std::string prefix = posix ? text_of(header.prefix) : "";
    std::string name = (prefix.empty() ? "" : prefix + "/") + text_of(header.name);
    if (header.type == '5') return;  // a folder: its files say enough
    if (header.type != '0' && header.type != '\0')
      fail(CLIP_EDGE_ERROR_FORMAT, "archive: `%.200s` is no plain file (make the archive with --format=ustar)",
           name.c_str());
    while (name.compare(0, 2, "./") == 0) name.erase(0, 2);
    if (!stays_inside(name)) fail(CLIP_EDGE_ERROR_FORMAT, "archive: a path leaves the bundle: `%.200s`", name.c_str());
    if (!entries_.emplace(name, Entry{start, bytes}).second)
      fail(CLIP_EDGE_ERROR_FORMAT, "archive: a file is there twice: `%.200s`", name.c_str());
  }

  Descriptor file_;
  std::map<std::string, Entry> entries_;
};

}  // namespace

std::unique_ptr<Source> open_archive(int descriptor, int64_t offset, int64_t length) {
  return std::make_unique<Archive>(descriptor, offset, length);
}

}  // namespace clip_edge::core
