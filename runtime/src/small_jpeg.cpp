// Each 8 x 8 block of a JPEG holds its cosine transform. The block at N x N pixels is the inverse transform of the N x N
// lowest frequencies alone: everything above them is what a smaller picture cannot show. Half of the time of a decoder
// goes into unpacking the others; here they are skipped, several at a time.
#include "small_jpeg.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "huffman.h"

namespace clip_edge::core {
namespace {

constexpr int kMostParts = 3;
constexpr int kMostCoefficient = 32767;

// Row and column of each position, in the order of the file (T.81, figure A.6).
struct ZigZag {
  uint8_t row[64], column[64];
  constexpr ZigZag() : row(), column() {
    int at = 0;
    for (int sum = 0; sum < 15; sum++)
      for (int i = 0; i <= sum; i++) {
        const int down = sum % 2 != 0 ? i : sum - i, right = sum - down;
        if (down > 7 || right > 7) continue;
        row[at] = static_cast<uint8_t>(down), column[at] = static_cast<uint8_t>(right);
        at++;
      }
  }
};
constexpr ZigZag kOrder;

// Where each position goes in a block of side * side low frequencies; what does not count goes behind them.
template <int side>
struct Slots {
  uint8_t at[64];
  int last = 0;  // position of the last one that counts
  constexpr Slots() : at() {
    for (int k = 0; k < 64; k++) {
      const bool counts = kOrder.row[k] < side && kOrder.column[k] < side;
      at[k] = static_cast<uint8_t>(counts ? kOrder.row[k] * side + kOrder.column[k] : side * side);
      if (counts) last = k;
    }
  }
};
template <int side>
constexpr Slots<side> kSlots;

// One channel: how it is stored, and its rows of the strip that is being decoded.
struct Part {
  int id = 0, across = 1, down = 1, quantum = 0;  // blocks of an MCU; index of its table
  const HuffmanTable *dc = nullptr, *ac = nullptr;
  int side = 0;  // of a decoded block, in pixels: 1, 2 or 4
  int predicted = 0;
  int stride = 0;
  std::vector<uint8_t> strip;
};

struct File {
  uint16_t quantum[4][64];
  bool has_quantum[4] = {};
  HuffmanTable dc[4], ac[4];
  Part parts[kMostParts];
  int count = 0, width = 0, height = 0, restart = 0;
  size_t scan = 0;  // where the compressed data begins
};

int number(const uint8_t *at) { return at[0] << 8 | at[1]; }

bool read_quanta(const uint8_t *at, size_t size, File &file) {
  for (; size >= 65; at += 65, size -= 65) {
    if (at[0] > 3) return false;  // of 16 bits, or no table
    for (int k = 0; k < 64; k++) file.quantum[at[0]][k] = at[1 + k];
    file.has_quantum[at[0]] = true;
  }
  return size == 0;
}

bool read_codes(const uint8_t *at, size_t size, File &file) {
  while (size >= 17) {
    size_t symbols = 0;
    for (int i = 1; i <= 16; i++) symbols += at[i];
    const int kind = at[0] >> 4, index = at[0] & 15;
    if (kind > 1 || index > 3 || symbols > 256 || size - 17 < symbols) return false;
    if (!(kind == 0 ? file.dc : file.ac)[index].make(at + 1, at + 17, symbols)) return false;
    at += 17 + symbols, size -= 17 + symbols;
  }
  return size == 0;
}

bool read_frame(const uint8_t *at, size_t size, File &file) {
  if (file.count != 0 || size < 6 || at[0] != 8) return false;
  file.height = number(at + 1), file.width = number(at + 3), file.count = at[5];
  if ((file.count != 1 && file.count != 3) || size != 6 + 3 * static_cast<size_t>(file.count)) return false;
  for (int p = 0; p < file.count; p++) {
    Part &part = file.parts[p];
    part.id = at[6 + 3 * p];
    part.across = at[7 + 3 * p] >> 4, part.down = at[7 + 3 * p] & 15, part.quantum = at[8 + 3 * p];
    if (part.quantum > 3) return false;
  }
  if (file.count == 1) file.parts[0].across = file.parts[0].down = 1;  // alone, it is not interleaved
  const Part &first = file.parts[0];
  const bool named_rgb = first.id == 'R' && file.parts[1].id == 'G' && file.parts[2].id == 'B';
  const bool square = first.across == first.down && (first.across == 1 || first.across == 2);
  for (int p = 1; p < file.count; p++)
    if (file.parts[p].across != 1 || file.parts[p].down != 1) return false;
  return square && !named_rgb;
}

bool read_scan(const uint8_t *at, size_t size, File &file) {
  if (file.count == 0 || size != 4 + 2 * static_cast<size_t>(file.count) || at[0] != file.count) return false;
  for (int p = 0; p < file.count; p++) {
    Part &part = file.parts[p];
    const int dc = at[2 + 2 * p] >> 4, ac = at[2 + 2 * p] & 15;
    if (at[1 + 2 * p] != part.id || dc > 3 || ac > 3) return false;
    part.dc = &file.dc[dc], part.ac = &file.ac[ac];
    if (!part.dc->ready() || !part.ac->ready() || !file.has_quantum[part.quantum]) return false;
  }
  const uint8_t *end = at + size - 3;
  return end[0] == 0 && end[1] == 63 && end[2] == 0;
}

// Everything in front of the compressed data, or false at the first thing that is not common.
bool read_file(const uint8_t *bytes, size_t size, File &file) {
  for (size_t at = 2; at + 4 <= size;) {
    if (bytes[at] != 0xFF) return false;
    const int marker = bytes[at + 1];
    const size_t length = static_cast<size_t>(number(bytes + at + 2));
    if (length < 2 || size - at - 2 < length) return false;
    const uint8_t *body = bytes + at + 4;
    const size_t body_size = length - 2;
    bool good = true;
    if (marker == 0xDB) good = read_quanta(body, body_size, file);
    if (marker == 0xC4) good = read_codes(body, body_size, file);
    if (marker == 0xC0) good = read_frame(body, body_size, file);
    if (marker == 0xDD) good = body_size == 2, file.restart = good ? number(body) : 0;
    if (marker == 0xEE && body_size >= 12 && std::memcmp(body, "Adobe", 5) == 0) good = body[11] == 1;
    if (marker == 0xDA) return file.scan = at + 2 + length, read_scan(body, body_size, file);
    const bool other = marker >= 0xE0 || marker == 0xDB || marker == 0xC4 || marker == 0xC0 || marker == 0xDD;
    if (!good || !other) return false;
    at += 2 + length;
  }
  return false;
}

// The compressed data without its stuffing, and where the parts between restart markers end.
struct Data {
  Buffer bytes{0};
  std::vector<size_t> ends;
};

bool unpack(const uint8_t *bytes, size_t size, size_t at, Data &data) {
  data.bytes = Buffer(size - at + BitReader::kReadAhead);
  uint8_t *const start = data.bytes.bytes.get(), *to = start;
  while (at < size) {
    const auto *mark = static_cast<const uint8_t *>(std::memchr(bytes + at, 0xFF, size - at));
    if (mark == nullptr || mark + 1 >= bytes + size) return false;
    const size_t plain = static_cast<size_t>(mark - bytes) - at;
    std::memcpy(to, bytes + at, plain);
    to += plain, at += plain + 2;
    const int marker = mark[1];
    if (marker == 0x00) {
      *to++ = 0xFF;
      continue;
    }
    data.ends.push_back(static_cast<size_t>(to - start));
    if (marker == 0xD9) return std::memset(to, 0, BitReader::kReadAhead), true;
    if (marker != 0xD0 + static_cast<int>((data.ends.size() - 1) % 8)) return false;
  }
  return false;
}

uint8_t to_byte(int value) { return static_cast<uint8_t>(std::clamp(value, 0, 255)); }

using Four = float __attribute__((vector_size(16)));

// Orthonormal cosines of four pixels, by a factor that makes them N / 8 of the block's: kCosines[u][x].
constexpr Four kCosines[4] = {{0.35355339F, 0.35355339F, 0.35355339F, 0.35355339F},
                              {0.46193977F, 0.19134172F, -0.19134172F, -0.46193977F},
                              {0.35355339F, -0.35355339F, -0.35355339F, 0.35355339F},
                              {0.19134172F, -0.46193977F, 0.46193977F, -0.19134172F}};

void transform_four(const int *low, uint8_t *out, int stride) {
  Four rows[4];
  for (int v = 0; v < 4; v++) {
    rows[v] = Four{};
    for (int u = 0; u < 4; u++) rows[v] += static_cast<float>(low[4 * v + u]) * kCosines[u];
  }
  for (int y = 0; y < 4; y++) {
    Four sum = {128.5F, 128.5F, 128.5F, 128.5F};
    for (int v = 0; v < 4; v++) sum += kCosines[v][y] * rows[v];
    for (int x = 0; x < 4; x++) out[y * stride + x] = static_cast<uint8_t>(std::clamp(sum[x], 0.0F, 255.0F));
  }
}

// The low frequencies of a block -> side * side pixels. Those of N x N pixels count N / 8 of the block's.
template <int side>
void transform(const int *low, bool flat, uint8_t *out, int stride) {
  constexpr int kGrey = 1024 + 4;  // 128, and a half to round by, in eighths
  if (side == 1 || flat) {
    const uint8_t value = to_byte((low[0] + kGrey) >> 3);
    for (int y = 0; y < side; y++) std::memset(out + y * stride, value, side);
  } else if constexpr (side == 4) {
    transform_four(low, out, stride);
  } else if constexpr (side == 2) {
    const int a = low[0] + kGrey, b = low[1], c = low[2], d = low[3];
    out[0] = to_byte((a + b + c + d) >> 3), out[1] = to_byte((a - b + c - d) >> 3);
    out[stride] = to_byte((a + b - c - d) >> 3), out[stride + 1] = to_byte((a - b - c + d) >> 3);
  }
}

// What the bits of an item stand for (T.81, table F.1).
int value_of(const HuffmanTable::Item &item) {
  const auto value = static_cast<int>(item.value), above = (1 << item.size) - 1;
  return 2 * value > above ? value : value - above;
}

// The next block of `part`, side * side pixels; false where its data is no block.
template <int side>
inline bool decode_block(BitReader &reader, Part &part, const uint16_t *quantum, uint8_t *out) {
  int low[side * side + 1] = {};
  reader.refill();
  const HuffmanTable::Item first = part.dc->next(reader);
  if (first.symbol < 0 || first.symbol > 11) return false;
  part.predicted += value_of(first);
  if (std::abs(part.predicted) > kMostCoefficient) return false;
  low[0] = part.predicted * quantum[0];
  bool flat = true;
  for (int k = 1;;) {
    if (k > kSlots<side>.last) {
      if (k < 64 && !part.ac->skip_block(reader, k)) return false;
      break;
    }
    const HuffmanTable::Item item = part.ac->next(reader);
    if (item.symbol == HuffmanTable::kEnd) break;
    if (item.symbol < 0 || (item.size == 0 && item.symbol != HuffmanTable::kZeroRun)) return false;
    k += item.symbol >> 4;
    if (k > 63) return false;
    low[kSlots<side>.at[k]] = value_of(item) * quantum[k];
    flat = false;
    k++;
    reader.refill();
  }
  transform<side>(low, flat, out, part.stride);
  return true;
}

// YCbCr of ITU-R BT.601, as JFIF has it, in 8 bits of fraction: 16-bit numbers hold what is left of the factors
// 1.402, -0.714, -0.344 and 1.772 when whole multiples are taken out.
void to_rgb(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int width, uint8_t *out) {
  constexpr int kPiece = 64;
  uint8_t rgb[3][kPiece];
  for (int start = 0; start < width; start += kPiece) {
    const int count = std::min(kPiece, width - start);
    for (int i = 0; i < count; i++) {
      const auto y = static_cast<int16_t>(luma[start + i]), cb = static_cast<int16_t>(blue[start + i] - 128),
                 cr = static_cast<int16_t>(red[start + i] - 128);
      const auto more_red = static_cast<int16_t>(static_cast<int16_t>(cr * 103 + 128) >> 8);
      const auto green = static_cast<int16_t>(static_cast<int16_t>(cr * 73 - cb * 88 + 128) >> 8);
      const auto less_blue = static_cast<int16_t>(static_cast<int16_t>(cb * 58 + 128) >> 8);
      rgb[0][i] = static_cast<uint8_t>(std::clamp<int16_t>(static_cast<int16_t>(y + cr + more_red), 0, 255));
      rgb[1][i] = static_cast<uint8_t>(std::clamp<int16_t>(static_cast<int16_t>(y - cr + green), 0, 255));
      rgb[2][i] = static_cast<uint8_t>(std::clamp<int16_t>(static_cast<int16_t>(y + 2 * cb - less_blue), 0, 255));
    }
    for (int i = 0; i < count; i++, out += 3) out[0] = rgb[0][i], out[1] = rgb[1][i], out[2] = rgb[2][i];
  }
}

// What is decoded and where: a scan, its restarts, and the strip of MCUs in hand.
class Scan {
 public:
  Scan(File &file, const Data &data, int eighths)
      : file_(file), data_(data), mcu_(8 * file.parts[0].across), rows_(eighths * file.parts[0].across),
        wide_((file.width + mcu_ - 1) / mcu_), left_(file.restart), reader_(data.bytes.bytes.get()) {
    for (int p = 0; p < file.count; p++) {
      Part &part = file.parts[p];
      part.side = rows_ / part.down, part.stride = wide_ * rows_;
      part.strip.resize(static_cast<size_t>(part.stride) * static_cast<size_t>(rows_));
    }
  }

  int strips() const { return (file_.height + mcu_ - 1) / mcu_; }
  int rows() const { return rows_; }  // of pixels in a strip

  // The next row of MCUs; false at the first flaw.
  bool decode_strip() {
    for (int column = 0; column < wide_; column++, left_--) {
      if (file_.restart > 0 && left_ == 0 && !restart()) return false;
      BitReader reader = reader_;  // a copy, so that it lives in registers
      for (int p = 0; p < file_.count; p++)
        if (!decode_part(reader, file_.parts[p], column)) return false;
      reader_ = reader;
      if (reader_.used() > 8 * length()) return false;
    }
    return true;
  }

  bool is_at_end() const { return segment_ + 1 == data_.ends.size() && segment_is_used(); }

 private:
  size_t length() const { return data_.ends[segment_] - start_; }  // of the data up to the next restart
  bool segment_is_used() const { return reader_.used() <= 8 * length() && reader_.used() + 8 > 8 * length(); }

  bool restart() {
    if (!segment_is_used() || segment_ + 1 >= data_.ends.size()) return false;
    start_ = data_.ends[segment_++], left_ = file_.restart;
    reader_ = BitReader(data_.bytes.bytes.get() + start_);
    for (Part &part : file_.parts) part.predicted = 0;
    return true;
  }

  bool decode_part(BitReader &reader, Part &part, int column) {
    const uint16_t *quantum = file_.quantum[part.quantum];
    for (int block = 0; block < part.across * part.down; block++) {
      const int x = column * rows_ + block % part.across * part.side, y = block / part.across * part.side;
      uint8_t *out = part.strip.data() + static_cast<size_t>(y) * static_cast<size_t>(part.stride) + x;
      const bool good = part.side == 1   ? decode_block<1>(reader, part, quantum, out)
                        : part.side == 2 ? decode_block<2>(reader, part, quantum, out)
                                         : decode_block<4>(reader, part, quantum, out);
      if (!good) return false;
    }
    return true;
  }

  File &file_;
  const Data &data_;
  int mcu_, rows_, wide_, left_;
  size_t segment_ = 0, start_ = 0;
  BitReader reader_;
};

inline bool decode_rows(File &file, const Data &data, int eighths, int width, int height, uint8_t *pixels) {
  Scan scan(file, data, eighths);
  for (int strip = 0; strip < scan.strips(); strip++) {
    if (!scan.decode_strip()) return false;
    for (int y = 0; y < scan.rows() && strip * scan.rows() + y < height; y++) {
      const size_t from = static_cast<size_t>(y) * static_cast<size_t>(file.parts[0].stride);
      uint8_t *out = pixels + 3 * static_cast<size_t>(width) * static_cast<size_t>(strip * scan.rows() + y);
      const uint8_t *luma = file.parts[0].strip.data() + from;
      if (file.count == 3)
        to_rgb(luma, file.parts[1].strip.data() + from, file.parts[2].strip.data() + from, width, out);
      else
        for (int x = 0; x < width; x++) std::memset(out + 3 * x, luma[x], 3);
    }
  }
  return scan.is_at_end();
}

#if defined(__x86_64__)
// The same, compiled for shifts that need no fixed register.
__attribute__((target("avx2,bmi2"), flatten)) bool decode_rows_bmi2(File &file, const Data &data, int eighths, int width,
                                                                    int height, uint8_t *pixels) {
  return decode_rows(file, data, eighths, width, height, pixels);
}
#endif

bool decode_scan(File &file, const Data &data, int eighths, int width, int height, uint8_t *pixels) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"))
    return decode_rows_bmi2(file, data, eighths, width, height, pixels);
#endif
  return decode_rows(file, data, eighths, width, height, pixels);
}

}  // namespace

bool decode_small_jpeg(const uint8_t *bytes, size_t size, const PictureHeader &header, int eighths, Picture &picture) {
  if (eighths > 2 || header.components == 4) return false;
  const auto file = std::make_unique<File>();
  Data data;
  if (!read_file(bytes, size, *file) || file->width != header.width || file->height != header.height ||
      !unpack(bytes, size, file->scan, data))
    return false;
  const int width = (header.width * eighths + 7) / 8, height = (header.height * eighths + 7) / 8;
  Buffer pixels(3 * static_cast<size_t>(width) * static_cast<size_t>(height));
  if (!decode_scan(*file, data, eighths, width, height, pixels.bytes.get())) return false;
  picture.pixels = std::move(pixels);
  return true;
}

}  // namespace clip_edge::core
