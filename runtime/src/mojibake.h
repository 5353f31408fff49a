// Text that was decoded with the wrong encoding, "CafÃ©": ftfy.fix_encoding.
#pragma once

#include <string>

namespace clip_edge::core {

// Decodes again what looks as if its UTF-8 had been read in one of ten encodings with one byte a character; text that
// looks right stays as it is. The rules and their order are ftfy's, so that the answers are.
std::u32string fix_encoding(std::u32string text);

}  // namespace clip_edge::core
