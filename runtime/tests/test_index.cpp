// Search in stored embeddings: every kind of row, every kernel, ties, threads, and files that lie.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <vector>

#include "check.h"
#include "index.h"
#include "status.h"

using namespace clip_edge::core;

namespace {

std::mt19937 random_source(31);

float random_float() { return std::normal_distribution<float>()(random_source); }

template <class Item>
std::string bytes_of(const std::vector<Item> &items) {
  return std::string(reinterpret_cast<const char *>(items.data()), items.size() * sizeof(Item));
}

struct Part {
  std::string name, type, shape, bytes;
};

std::string safetensors(const std::vector<Part> &parts, const std::string &space = "00ff") {
  std::string header = R"({"__metadata__":{"clip_edge_index":"1","embedding_space":")" + space + R"("})", data;
  for (const Part &part : parts) {
    header += ",\"" + part.name + R"(":{"dtype":")" + part.type + R"(","shape":)" + part.shape + R"(,"data_offsets":[)" +
              std::to_string(data.size()) + "," + std::to_string(data.size() + part.bytes.size()) + "]}";
    data += part.bytes;
  }
  header += "}";
  std::string file;
  for (size_t i = 0; i < 8; i++) file.push_back(static_cast<char>(header.size() >> (8 * i) & 255));
  return file + header + data;
}

std::string shape(size_t a, size_t b = 0) {
  return "[" + std::to_string(a) + (b == 0 ? "" : "," + std::to_string(b)) + "]";
}

// Row `i` has the label "r<i>".
std::vector<Part> labels_of(size_t count) {
  std::string labels;
  std::vector<int64_t> ends;
  for (size_t i = 0; i < count; i++) {
    labels += "r" + std::to_string(i);
    ends.push_back(static_cast<int64_t>(labels.size()));
  }
  return {{"label_ends", "I64", shape(count), bytes_of(ends)}, {"labels", "U8", shape(labels.size()), labels}};
}

std::string file_of(std::vector<Part> parts, size_t count) {
  for (const Part &part : labels_of(count)) parts.push_back(part);
  return safetensors(parts);
}

std::vector<clip_edge_hit> by_sorting(const std::vector<float> &scores, size_t k) {
  std::vector<clip_edge_hit> hits;
  for (size_t i = 0; i < scores.size(); i++) hits.push_back({i, scores[i]});
  std::stable_sort(hits.begin(), hits.end(), [](const auto &a, const auto &b) { return a.score > b.score; });
  hits.resize(std::min(k, hits.size()));
  return hits;
}

void kernels_agree() {
  for (size_t dim : {1, 7, 16, 24, 31, 32, 33, 64, 100, 512}) {
    std::vector<float> query(dim), rows(5 * dim);
    std::vector<uint16_t> halves(5 * dim);
    std::vector<int8_t> bytes(5 * dim);
    for (float &value : query) value = random_float();
    for (float &value : rows) value = random_float();
    for (uint16_t &value : halves) value = static_cast<uint16_t>(random_source() % 0x7C00 | (random_source() % 2) << 15);
    for (int8_t &value : bytes) value = static_cast<int8_t>(random_source());
    const auto check = [&](Dots fast, Dots plain, const void *values, double scale) {
      float found[5], expected[5];
      fast(static_cast<const uint8_t *>(values), 5, dim, query.data(), found);
      plain(static_cast<const uint8_t *>(values), 5, dim, query.data(), expected);
      for (int i = 0; i < 5; i++) CHECK(std::abs(found[i] - expected[i]) <= 1e-5 * scale * std::sqrt(dim));
    };
    check(best_dots().float32, scalar_dots().float32, rows.data(), 10);
    check(best_dots().float16, scalar_dots().float16, halves.data(), 65504 * 4);
    check(best_dots().int8, scalar_dots().int8, bytes.data(), 127 * 4);
  }
  const uint16_t halves[] = {0x3C00, 0xC000, 0x0001, 0x7BFF, 0x8000, 0x03FF};
  const float expected[] = {1, -2, 5.9604645e-8F, 65504, 0, 6.097555e-5F}, one = 1;
  for (int i = 0; i < 6; i++) {
    float found;
    scalar_dots().float16(reinterpret_cast<const uint8_t *>(&halves[i]), 1, 1, &one, &found);
    CHECK(found == expected[i]);
  }
  std::printf("kernels: %s\n", best_dots().name);
}

void ties_stand_in_row_order() {
  const size_t count = 1000, dim = 24;
  std::vector<float> values(count * dim), queries(3 * dim);
  for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i / dim % 10 * 3 % 7 + i % dim);
  for (float &value : queries) value = static_cast<float>(random_source() % 5);  // whole numbers: sums are exact
  const std::string file = file_of({{"embeddings", "F32", shape(count, dim), bytes_of(values)}}, count);
  const Rows rows = parse_rows(file, "i");
  for (size_t k : {1, 5, 300, 1000})
    for (size_t threads : {1, 2, 3, 7, 64}) {
      const std::vector<clip_edge_hit> found = search(rows, best_dots(), queries.data(), 3, k, threads);
      CHECK(found.size() == 3 * k);
      for (size_t q = 0; q < 3; q++) {
        std::vector<float> scores(count);
        scalar_dots().float32(rows.values, count, dim, &queries[q * dim], scores.data());
        const std::vector<clip_edge_hit> expected = by_sorting(scores, k);
        const auto same = [](const auto &a, const auto &b) { return a.row == b.row && a.score == b.score; };
        CHECK(std::equal(expected.begin(), expected.end(), found.begin() + static_cast<std::ptrdiff_t>(q * k), same));
      }
    }
}

void int8_rows_have_a_scale() {
  const std::vector<int8_t> values = {127, 0, 0, 127, -127, 0};
  const std::string file = file_of({{"embeddings", "I8", "[3,2]", bytes_of(values)},
                                    {"scales", "F32", "[3]", bytes_of(std::vector<float>{0.5F, 0.25F, NAN})}},
                                   3);
  const Rows rows = parse_rows(file, "i");
  const float query[] = {1, 1};
  const std::vector<clip_edge_hit> found = search(rows, best_dots(), query, 1, 3, 1);
  CHECK(found[0].row == 0 && found[0].score == 63.5F && found[1].row == 1 && found[1].score == 31.75F);
  CHECK(found[2].row == 2 && found[2].score == -HUGE_VALF);
  CHECK_TEXT(std::string(rows.label(2)), "r2");
}

std::string refusal(const std::string &file) {
  try {
    parse_rows(file, "i");
    return "accepted";
  } catch (const Error &error) {
    return error.text;
  }
}

void lies_are_told() {
  const Part two = {"embeddings", "F32", "[2,1]", std::string(8, '\0')};
  const auto ends = [](int64_t a, int64_t b) {
    return Part{"label_ends", "I64", "[2]", bytes_of(std::vector<int64_t>{a, b})};
  };
  const Part labels = {"labels", "U8", "[3]", "abc"};
  CHECK_TEXT(refusal(safetensors({two, ends(1, 3), labels})), "accepted");
  CHECK_TEXT(refusal(safetensors({two, ends(0, 0)})), "accepted");
  CHECK_TEXT(refusal(safetensors({two, ends(4, 3), labels})), "i: the label of row 0 ends where it cannot");
  CHECK_TEXT(refusal(safetensors({two, ends(-1, 3), labels})), "i: the label of row 0 ends where it cannot");
  CHECK_TEXT(refusal(safetensors({two, ends(1, 4), labels})), "i: `labels` must be U8 of shape (4); found U8 (3)");
  CHECK_TEXT(refusal(safetensors({two, labels})), "i: missing tensor: `label_ends`");
  CHECK_TEXT(refusal(safetensors({ends(1, 3), labels})), "i: missing tensor: `embeddings`");
  CHECK_TEXT(refusal(safetensors({two, ends(1, 3), labels, {"more", "U8", "[1]", "x"}})), "i: unknown tensor: `more`");
  CHECK_TEXT(refusal(safetensors({{"embeddings", "I64", "[1,1]", std::string(8, '\0')}})),
             "i: `embeddings` must be F32, F16 or I8; found I64");
  CHECK_TEXT(refusal(safetensors({{"embeddings", "I8", "[1,1]", "x"}})), "i: missing tensor: `scales`");
  CHECK(refusal("{}").find("i: not a safetensors file") == 0);
  const std::string unmarked = "{}";
  CHECK_TEXT(refusal(std::string("\x02\0\0\0\0\0\0\0", 8) + unmarked),
             "i: `clip_edge_index` 1 expected in its metadata; found ``");
}

void damaged_files_end_in_a_status(int rounds) {
  const std::string whole = file_of({{"embeddings", "F16", "[3,4]", std::string(24, '\x3C')}}, 3);
  int accepted = 0;
  for (int round = 0; round < rounds; round++) {
    std::string file = whole;
    for (size_t changes = 1 + random_source() % 4; changes > 0; changes--)
      file[random_source() % file.size()] = static_cast<char>(random_source());
    if (round % 9 == 0) file.resize(random_source() % file.size());
    try {
      const Rows rows = parse_rows(file, "i");
      const std::vector<float> query(rows.dim, 0.5F);
      CHECK(search(rows, best_dots(), query.data(), 1, 1, 2).size() == 1);
      for (size_t row = 0; row < rows.count; row++) CHECK(rows.label(row).size() <= rows.labels.size());
      accepted++;
    } catch (const Error &error) {
      CHECK(error.status != CLIP_EDGE_ERROR_INTERNAL && !error.text.empty());
    }
  }
  std::printf("indexes: %d of %d damaged files still made sense\n", accepted, rounds);
}

void the_interface_tells_mistakes() {
  char path[] = "/tmp/clip_edge_index_XXXXXX";
  const int file = mkstemp(path);
  const std::string bytes = file_of({{"embeddings", "F32", "[2,2]", bytes_of(std::vector<float>{1, 0, 0, 1})}}, 2);
  CHECK(file >= 0 && ::write(file, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  clip_edge_index *index = nullptr;
  CHECK(clip_edge_index_open("/nowhere", nullptr, &index) == CLIP_EDGE_ERROR_IO && index == nullptr);
  CHECK(clip_edge_index_open("/tmp", nullptr, &index) == CLIP_EDGE_ERROR_IO && index == nullptr);
  CHECK(clip_edge_index_open(path, "0123", &index) == CLIP_EDGE_ERROR_INVALID_ARGUMENT && index == nullptr);
  CHECK_TEXT(clip_edge_last_error(), std::string(path) + ": its vectors are of embedding space `00ff`; the model's is `0123`");
  CHECK(clip_edge_index_open(path, "00ff", &index) == CLIP_EDGE_OK);
  clip_edge_hit hits[2];
  size_t found = 9;
  float query[] = {0, 2};
  CHECK(clip_edge_index_search(index, query, 1, 9, 0, hits, 2, &found) == CLIP_EDGE_OK && found == 2);
  CHECK(hits[0].row == 1 && hits[0].score == 2 && hits[1].row == 0 && hits[1].score == 0);
  CHECK(clip_edge_index_search(index, query, 1, 9, 0, hits, 1, &found) == CLIP_EDGE_ERROR_BUFFER_TOO_SMALL);
  CHECK(clip_edge_index_search(index, query, 1, 1, -1, hits, 2, &found) == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  CHECK(clip_edge_index_search(index, nullptr, 0, 1, 1, nullptr, 0, &found) == CLIP_EDGE_OK && found == 0);
  query[0] = NAN;
  CHECK(clip_edge_index_search(index, query, 1, 1, 1, hits, 2, &found) == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  const char *label = nullptr;
  size_t label_bytes = 0;
  CHECK(clip_edge_index_get_label(index, 1, &label, &label_bytes) == CLIP_EDGE_OK);
  CHECK_TEXT(std::string(label, label_bytes), "r1");
  CHECK(clip_edge_index_get_label(index, 2, &label, &label_bytes) == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  clip_edge_index_info info;
  CHECK(clip_edge_index_get_info(index, &info, sizeof(info)) == CLIP_EDGE_OK && info.count == 2 && info.dim == 2);
  clip_edge_index_free(index);
  close(file), unlink(path);
}

}  // namespace

int main(int argc, char **argv) {
  kernels_agree();
  ties_stand_in_row_order();
  int8_rows_have_a_scale();
  lies_are_told();
  damaged_files_end_in_a_status(argc > 1 ? std::atoi(argv[1]) : 2000);
  the_interface_tells_mistakes();
  return finish();
}
