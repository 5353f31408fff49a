// What the fuzz targets share: a failed expectation ends the process, which libFuzzer reports with the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define EXPECT(condition) \
  do {                    \
    if (!(condition)) __builtin_trap(); \
  } while (0)

// Takes numbers from the front of the input; zeros where it has ended.
class Input {
 public:
  Input(const uint8_t *data, size_t size) : data_(data), size_(size) {}

  template <class Number>
  Number take() {
    Number value{};
    const size_t count = size_ < sizeof(value) ? size_ : sizeof(value);
    std::memcpy(&value, data_, count);
    skip(count);
    return value;
  }
  void skip(size_t count) {
    data_ += count;
    size_ -= count;
  }
  const uint8_t *data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const uint8_t *data_;
  size_t size_;
};
