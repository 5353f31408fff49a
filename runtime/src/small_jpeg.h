// A much smaller picture straight from the data of a baseline JPEG: only the low frequencies of each block are decoded.
#pragma once

#include "picture.h"

namespace clip_edge::core {

// The picture at eighths / 8 of its sides (1 or 2), or false where the file is not of the common kind (baseline, one
// scan, grey or YCbCr with whole or halved colours) or has the least flaw: then libjpeg-turbo decides.
bool decode_small_jpeg(const uint8_t *bytes, size_t size, const PictureHeader &header, int eighths, Picture &picture);

}  // namespace clip_edge::core
