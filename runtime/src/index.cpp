#include "index.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "parallel.h"
#include "safetensors.h"
#include "source.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr const char *kVersion = "1";
constexpr size_t kBlock = 256;  // rows whose scores are held at once: they stay in the cache for all queries

template <class Item>
Item item_at(const uint8_t *items, size_t i) {
  Item item;
  std::memcpy(&item, items + i * sizeof(Item), sizeof(item));
  return item;
}

bool better(const clip_edge_hit &a, const clip_edge_hit &b) {
  return a.score > b.score || (a.score == b.score && a.row < b.row);
}

// The best hits of one query so far; a heap whose top is the worst of them.
class Best {
 public:
  explicit Best(size_t most) : most_(most) { hits_.reserve(most); }

  void offer(const clip_edge_hit &hit) {
    if (hits_.size() == most_) {
      if (!better(hit, hits_.front())) return;
      std::pop_heap(hits_.begin(), hits_.end(), better);
      hits_.back() = hit;
    } else {
      hits_.push_back(hit);
    }
    std::push_heap(hits_.begin(), hits_.end(), better);
  }

  const std::vector<clip_edge_hit> &hits() const { return hits_; }

 private:
  size_t most_;
  std::vector<clip_edge_hit> hits_;
};

// One thread's share of the rows. It allocates nothing once made, so it cannot fail.
struct Share {
  size_t begin, end;
  std::vector<Best> best;  // of each query

  void run(const Rows &rows, Dots dots, const float *queries) noexcept {
    const size_t row_bytes = rows.dim * (rows.type == "float32" ? 4 : rows.type == "float16" ? 2 : 1);
    float scores[kBlock];
    for (size_t start = begin; start < end; start += kBlock) {
      const size_t count = std::min(kBlock, end - start);
      for (size_t q = 0; q < best.size(); q++) {
        dots(rows.values + start * row_bytes, count, rows.dim, queries + q * rows.dim, scores);
        for (size_t i = 0; i < count; i++) {
          const float score = rows.scales == nullptr ? scores[i] : scores[i] * item_at<float>(rows.scales, start + i);
          best[q].offer({start + i, std::isnan(score) ? -HUGE_VALF : score});
        }
      }
    }
  }
};

void check_labels(const Rows &rows, const std::string &where) {
  int64_t last = 0;
  for (size_t row = 0; row < rows.count; row++) {
    const auto end = item_at<int64_t>(rows.ends, row);
    if (end < last || static_cast<uint64_t>(end) > rows.labels.size())
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: the label of row %zu ends where it cannot", where.c_str(), row);
    last = end;
  }
}

}  // namespace

Mapping::Mapping(const std::string &path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) fail(CLIP_EDGE_ERROR_IO, "%s: %s", path.c_str(), std::strerror(errno));
  struct stat info;
  if (fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0)
    fail(CLIP_EDGE_ERROR_IO, "%s: not a file, or empty", path.c_str());
  void *data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED)
    fail(errno == ENOMEM ? CLIP_EDGE_ERROR_OUT_OF_MEMORY : CLIP_EDGE_ERROR_IO, "%s: cannot be mapped: %s", path.c_str(),
         std::strerror(errno));
  data_ = static_cast<const char *>(data), size_ = static_cast<size_t>(info.st_size);
}

Mapping::~Mapping() { munmap(const_cast<char *>(data_), size_); }

std::string_view Rows::label(size_t row) const {
  const auto from = row == 0 ? 0 : static_cast<size_t>(item_at<int64_t>(ends, row - 1));
  return labels.substr(from, static_cast<size_t>(item_at<int64_t>(ends, row)) - from);
}

Rows parse_rows(std::string_view bytes, const std::string &where) {
  static const struct {
    const char *stored, *name;
  } kTypes[] = {{"F32", "float32"}, {"F16", "float16"}, {"I8", "int8"}};
  Tensors tensors(bytes, where);
  if (tensors.metadata("clip_edge_index") != kVersion)
    fail(CLIP_EDGE_ERROR_VERSION, "%s: `clip_edge_index` %s expected in its metadata; found `%.40s`", where.c_str(),
         kVersion, tensors.metadata("clip_edge_index").c_str());
  Rows rows;
  rows.space = tensors.metadata("embedding_space");
  const std::string stored = tensors.type_of("embeddings");
  for (const auto &type : kTypes)
    if (stored == type.stored || stored.empty()) rows.type = type.name;
  if (rows.type.empty())
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: `embeddings` must be F32, F16 or I8; found %.20s", where.c_str(), stored.c_str());
  const auto *data = reinterpret_cast<const uint8_t *>(bytes.data());
  const Tensor values = tensors.take("embeddings", stored.c_str(), {Tensors::kAny, Tensors::kAny});
  rows.count = values.shape[0], rows.dim = values.shape[1], rows.values = data + values.start;
  if (rows.type == "int8") rows.scales = data + tensors.take("scales", "F32", {rows.count}).start;
  rows.ends = data + tensors.take("label_ends", "I64", {rows.count}).start;
  const size_t label_bytes = static_cast<size_t>(item_at<int64_t>(rows.ends, rows.count - 1));
  if (label_bytes > 0) {  // a tensor of nothing may be missing
    const Tensor labels = tensors.take("labels", "U8", {label_bytes});
    rows.labels = bytes.substr(labels.start, labels.bytes);
  } else if (!tensors.type_of("labels").empty()) {
    tensors.take("labels", "U8", {Tensors::kAny});
  }
  tensors.check_all_taken();
  check_labels(rows, where);
  return rows;
}

std::vector<clip_edge_hit> search(const Rows &rows, const DotKernels &kernels, const float *queries,
                                  size_t query_count, size_t k, size_t threads) {
  const Dots dots = rows.type == "float32"   ? kernels.float32
                    : rows.type == "float16" ? kernels.float16
                                             : kernels.int8;
  const size_t each = (rows.count + threads - 1) / threads;
  std::vector<Share> shares;
  for (size_t begin = 0; begin < rows.count; begin += each) {
    shares.push_back({begin, std::min(begin + each, rows.count), {}});
    for (size_t q = 0; q < query_count; q++) shares.back().best.emplace_back(k);
  }
  share_out(shares.size(), shares.size(), [&](size_t i) { shares[i].run(rows, dots, queries); });
  std::vector<clip_edge_hit> found;
  found.reserve(query_count * k);
  for (size_t q = 0; q < query_count; q++) {
    std::vector<clip_edge_hit> all;
    for (const Share &share : shares) all.insert(all.end(), share.best[q].hits().begin(), share.best[q].hits().end());
    std::sort(all.begin(), all.end(), better);
    found.insert(found.end(), all.begin(), all.begin() + static_cast<std::ptrdiff_t>(k));
  }
  return found;
}

}  // namespace clip_edge::core

using namespace clip_edge::core;

struct clip_edge_index {
  explicit clip_edge_index(const std::string &path) : file(path), rows(parse_rows(file.bytes(), path)) {}
  const Mapping file;
  const Rows rows;
};

extern "C" {

clip_edge_status clip_edge_index_open(const char *path, const char *embedding_space, clip_edge_index **index) {
  return guard([&] {
    need(path, "path");
    need(index, "index");
    *index = nullptr;
    auto opened = std::make_unique<clip_edge_index>(path);
    if (embedding_space != nullptr && opened->rows.space != embedding_space)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "%s: its vectors are of embedding space `%.64s`; the model's is `%.64s`",
           path, opened->rows.space.c_str(), embedding_space);
    *index = opened.release();
  });
}

void clip_edge_index_free(clip_edge_index *index) { delete index; }

clip_edge_status clip_edge_index_get_info(const clip_edge_index *index, clip_edge_index_info *info,
                                          size_t struct_size) {
  return guard([&] {
    need(index, "index");
    need(info, "info");
    clip_edge_index_info known{};
    known.dim = static_cast<int32_t>(index->rows.dim);
    known.count = index->rows.count;
    known.embedding_space = index->rows.space.c_str();
    known.type = index->rows.type.c_str();
    write_options(info, struct_size, known);
  });
}

clip_edge_status clip_edge_index_get_label(const clip_edge_index *index, uint64_t row, const char **utf8,
                                           size_t *bytes) {
  return guard([&] {
    need(index, "index");
    need(utf8, "utf8");
    need(bytes, "bytes");
    if (row >= index->rows.count)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "row %llu of %zu", static_cast<unsigned long long>(row),
           index->rows.count);
    const std::string_view label = index->rows.label(static_cast<size_t>(row));
    *utf8 = label.empty() ? "" : label.data();
    *bytes = label.size();
  });
}

clip_edge_status clip_edge_index_search(const clip_edge_index *index, const float *queries, size_t query_count,
                                        size_t top, int32_t threads, clip_edge_hit *hits, size_t capacity,
                                        size_t *found) {
  return guard([&] {
    need(index, "index");
    need(found, "found");
    *found = 0;
    if (threads < 0 || threads > 1024)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`threads` must lie in 0..1024; found %d", static_cast<int>(threads));
    const size_t each = std::min(top, index->rows.count);
    if (query_count == 0 || each == 0) return;
    need(queries, "queries");
    need(hits, "hits");
    if (query_count > SIZE_MAX / sizeof(clip_edge_hit) / each || capacity < query_count * each)
      fail(CLIP_EDGE_ERROR_BUFFER_TOO_SMALL, "`hits` needs room for %zu x %zu hits, it has room for %zu", query_count,
           each, capacity);
    if (!std::all_of(queries, queries + query_count * index->rows.dim, [](float value) { return std::isfinite(value); }))
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "a query holds NaN or infinity");
    const std::vector<clip_edge_hit> best = search(index->rows, best_dots(), queries, query_count, each,
                                                   static_cast<size_t>(std::max(threads, 1)));
    std::copy(best.begin(), best.end(), hits);
    *found = each;
  });
}

}  // extern "C"
