// The text cleanings that the vocabularies of CLIP and SigLIP were made for: clip_edge/tokenizer.py.
#pragma once

#include <string>
#include <string_view>

#include "clip_edge/clip_edge.h"

namespace clip_edge::core {

// HTML references become characters by the rules of HTML 5, complete or not: Python's html.unescape.
std::u32string unescape_html(std::u32string_view text);

// ftfy.fix_text: complete HTML entities in text without `<`, text decoded with the wrong encoding, C1 controls, Latin
// ligatures, character width, straight quotes, line breaks, terminal escapes, control characters, NFC.
std::u32string fix_text(std::u32string_view text);

// What a clip_edge_text_spec asks for: fix_text and HTML references twice, then single spaces, and what its kind adds.
std::u32string clean_text(std::u32string text, clip_edge_text_cleaning kind);

}  // namespace clip_edge::core
