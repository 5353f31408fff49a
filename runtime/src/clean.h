// The text cleaning that CLIP's vocabulary was made for.
#pragma once

#include <string>
#include <string_view>

namespace clip_edge::core {

// HTML references become characters by the rules of HTML 5, complete or not: Python's html.unescape.
std::u32string unescape_html(std::u32string_view text);

// ftfy.fix_text without the repair of mis-decoded text ("mojibake"): complete HTML entities in text without `<`,
// C1 controls, Latin ligatures, character width, straight quotes, line breaks, terminal escapes, control characters,
// NFC.
std::u32string fix_text(std::u32string_view text);

// fix_text, HTML references twice, single spaces, lower case.
std::u32string clean_clip(std::u32string_view text);

}  // namespace clip_edge::core
