// A library that is opened when it is first needed, so that clip_edge builds and runs without it.
#pragma once

#include <dlfcn.h>

#include <cstring>
#include <initializer_list>

#include "status.h"

namespace clip_edge::core {

class SharedLibrary {
 public:
  // The first of `names` that the system finds. It stays open for the life of the process. `advice` says what to install.
  SharedLibrary(std::initializer_list<const char *> names, const char *advice) : advice_(advice) {
    for (const char *name : names)
      if ((handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL)) != nullptr) return;
    fail(CLIP_EDGE_ERROR_DECODER, "%s was not found: %s", *names.begin(), advice);
  }

  template <class Function>
  void load(Function &function, const char *name) const {
    void *symbol = dlsym(handle_, name);
    if (symbol == nullptr) fail(CLIP_EDGE_ERROR_DECODER, "no function `%s` in the library found: %s", name, advice_);
    std::memcpy(&function, &symbol, sizeof(function));
  }

 private:
  const char *advice_;
  void *handle_ = nullptr;
};

}  // namespace clip_edge::core
