// Text as code points, with the parts of Unicode that tokenizers and text cleaning need: Python's tables for cleaning,
// those of the package `tokenizers`, which are of other versions, for what a tokenizer.json asks for.
#pragma once

#include <string>
#include <string_view>

namespace clip_edge::core {

// Invalid bytes become U+FFFD, one for each longest piece that could have begun a character, as in Python.
std::u32string from_utf8(std::string_view bytes);
bool is_utf8(std::string_view bytes);
void append_utf8(std::string &out, char32_t point);
std::string to_utf8(std::u32string_view points);

bool is_letter(char32_t point);  // \p{L} and \p{N} of the regex engine
bool is_number(char32_t point);
bool is_space(char32_t point);          // str.isspace: White_Space and U+001C..U+001F
bool is_unicode_space(char32_t point);  // \s of the regex engine: White_Space

enum class Form { kNfc, kNfd, kNfkc, kNfkd };
enum class Tables { kPython, kTokenizers };
std::u32string normalize(std::u32string_view text, Form form, Tables tables = Tables::kPython);

std::u32string lower(std::u32string_view text);               // str.lower of Python: a final sigma is one
void append_lower_each(char32_t point, std::u32string &out);  // a character by itself, as `tokenizers` does
char32_t other_case(char32_t point);                          // ASCII letters in the other case; the rest as they are

// Classes of `tokenizers`.
bool is_mark(char32_t point);              // StripAccents removes it
bool is_bert_removed(char32_t point);      // as clean_text does
bool is_bert_accent(char32_t point);       // as strip_accents does
bool is_bert_chinese(char32_t point);      // a word by itself
bool is_bert_punctuation(char32_t point);  // a word by itself
bool joins_before(char32_t point);         // in one grapheme cluster with what stands before it
bool joins_after(char32_t point);          // with what follows
bool is_cluster_control(char32_t point);   // never with anything

}  // namespace clip_edge::core
