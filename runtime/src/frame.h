// Pictures as a caller has them, read as upright RGB rows.
#pragma once

#include <vector>

#include "clip_edge/clip_edge.h"

namespace clip_edge::core {

constexpr int kRowPadding = 32;  // bytes after a row that vector code may read (and ignores)

class RowReader {
 public:
  // Checks the picture; throws Error. The pixels must outlive the reader.
  explicit RowReader(const clip_edge_image &image);

  int width() const { return transposed_ ? image_.height : image_.width; }
  int height() const { return transposed_ ? image_.width : image_.height; }
  // What the orientation did, in this order: width and height exchanged, then the axes turned around.
  bool turned() const { return transposed_; }
  bool mirrored_x() const { return reverse_x_; }
  bool mirrored_y() const { return reverse_y_; }

  // Row `y` of the upright picture: width() * 3 bytes of RGB and kRowPadding more, valid until the next call.
  const uint8_t *row(int y);

 private:
  const uint8_t *column_of_stored(int x);

  clip_edge_image image_;
  bool transposed_, reverse_x_, reverse_y_;
  std::vector<uint8_t> row_;
  std::vector<uint8_t> strip_;  // for turned pictures: kStrip columns at a time, so that memory is read in order
  int strip_start_ = -1;
};

}  // namespace clip_edge::core
