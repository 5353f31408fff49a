// Errors inside the library are C++ exceptions; `guard` turns them into a status and a text at the C boundary.
#pragma once

#include <cstdarg>
#include <string>

#include "clip_edge/clip_edge.h"

namespace clip_edge::core {

struct Error {
  clip_edge_status status;
  std::string text;
};

// Throws Error with a printf-formatted text: what was expected, what was found, where.
[[noreturn]] void fail(clip_edge_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

void set_last_error(const char *text) noexcept;
clip_edge_status report_exception() noexcept;  // only inside a catch block

template <class Body>
clip_edge_status guard(Body &&body) noexcept {
  try {
    body();
    return CLIP_EDGE_OK;
  } catch (...) {
    return report_exception();
  }
}

template <class Pointer>
void need(Pointer *pointer, const char *name) {
  if (pointer == nullptr) fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`%s` must not be NULL", name);
}

// A caller's options structure of any known age as today's: `defaults` first, then what the caller has.
template <class Options>
Options read_options(const Options *from, const Options &defaults, const char *name) {
  need(from, name);
  const size_t size = from->struct_size;
  if (size < 2 * sizeof(uint32_t) || size > 4096 || size % alignof(Options) != 0)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`%s` was not initialised: its struct_size is %zu", name, size);
  const auto *bytes = reinterpret_cast<const unsigned char *>(from);
  for (size_t i = sizeof(Options); i < size; i++)
    if (bytes[i] != 0) fail(CLIP_EDGE_ERROR_VERSION, "`%s` uses a field that is newer than this library", name);
  Options options = defaults;
  auto *to = reinterpret_cast<unsigned char *>(&options);
  for (size_t i = 0; i < size && i < sizeof(Options); i++) to[i] = bytes[i];
  return options;
}

// The other way: fill at most `size` bytes of a caller's structure.
template <class Options>
void write_options(Options *to, size_t size, const Options &defaults) noexcept {
  if (to == nullptr || size < sizeof(uint32_t)) return;
  const auto *bytes = reinterpret_cast<const unsigned char *>(&defaults);
  auto *target = reinterpret_cast<unsigned char *>(to);
  for (size_t i = 0; i < size; i++) target[i] = i < sizeof(Options) ? bytes[i] : 0;
  to->struct_size = static_cast<uint32_t>(size);
}

}  // namespace clip_edge::core
