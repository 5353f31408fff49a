#include "status.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

namespace clip_edge::core {
namespace {
thread_local char last_error[1024] = "";
}

void fail(clip_edge_status status, const char *format, ...) {
  char text[sizeof(last_error)];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  throw Error{status, text};
}

void set_last_error(const char *text) noexcept { std::strncpy(last_error, text, sizeof(last_error) - 1); }

clip_edge_status report_exception() noexcept {
  try {
    throw;
  } catch (const Error &error) {
    set_last_error(error.text.c_str());
    return error.status;
  } catch (const std::bad_alloc &) {
    set_last_error("out of memory");
    return CLIP_EDGE_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception &error) {
    set_last_error(error.what());
    return CLIP_EDGE_ERROR_INTERNAL;
  } catch (...) {
    set_last_error("an unknown C++ exception");
    return CLIP_EDGE_ERROR_INTERNAL;
  }
}

}  // namespace clip_edge::core

extern "C" {

const char *clip_edge_last_error(void) { return clip_edge::core::last_error; }

const char *clip_edge_status_name(clip_edge_status status) {
  switch (status) {
    case CLIP_EDGE_OK: return "ok";
    case CLIP_EDGE_ERROR_INVALID_ARGUMENT: return "invalid argument";
    case CLIP_EDGE_ERROR_IO: return "cannot read";
    case CLIP_EDGE_ERROR_FORMAT: return "bad format";
    case CLIP_EDGE_ERROR_VERSION: return "wrong version";
    case CLIP_EDGE_ERROR_BACKEND: return "backend error";
    case CLIP_EDGE_ERROR_OUT_OF_MEMORY: return "out of memory";
    case CLIP_EDGE_ERROR_BUFFER_TOO_SMALL: return "buffer too small";
    case CLIP_EDGE_ERROR_ABORTED: return "aborted";
    case CLIP_EDGE_ERROR_UNSUPPORTED: return "unsupported";
    case CLIP_EDGE_ERROR_INTERNAL: return "internal error";
    case CLIP_EDGE_ERROR_VERIFICATION: return "verification failed";
    case CLIP_EDGE_ERROR_PICTURE: return "bad picture";
    case CLIP_EDGE_ERROR_DECODER: return "decoder missing";
  }
  return "unknown status";
}

const char *clip_edge_version(void) { return CLIP_EDGE_VERSION; }

uint32_t clip_edge_abi_version(void) { return CLIP_EDGE_ABI_VERSION; }

}  // extern "C"
