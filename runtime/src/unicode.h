// Text as code points, with the parts of Unicode that tokenizers and text cleaning need. The tables are Python's.
#pragma once

#include <string>
#include <string_view>

namespace clip_edge::core {

// Invalid bytes become U+FFFD, one for each longest piece that could have begun a character, as in Python.
std::u32string from_utf8(std::string_view bytes);
bool is_utf8(std::string_view bytes);
void append_utf8(std::string &out, char32_t point);
std::string to_utf8(std::u32string_view points);

bool is_letter(char32_t point);
bool is_number(char32_t point);
bool is_space(char32_t point);          // str.isspace: White_Space and U+001C..U+001F
bool is_unicode_space(char32_t point);  // \s of the regex engine: White_Space

enum class Form { kNfc, kNfd, kNfkc, kNfkd };
std::u32string normalize(std::u32string_view text, Form form);

std::u32string lower(std::u32string_view text);       // str.lower of Python: a final sigma is one
std::u32string lower_each(std::u32string_view text);  // every character by itself
char32_t other_case(char32_t point);                  // ASCII letters in the other case; the rest as they are

}  // namespace clip_edge::core
