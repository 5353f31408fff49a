#pragma once

#include <string>
#include <string_view>

namespace clip_edge::core {

// FIPS 180-4: 64 lower-case hexadecimal digits.
std::string sha256_hex(std::string_view bytes);

}  // namespace clip_edge::core
