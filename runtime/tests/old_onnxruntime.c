/* What an ONNX Runtime says that is too old: its table of functions ends before the version that is asked for. */
#include <stddef.h>
#include <stdint.h>

struct base {
  const void *(*get_api)(uint32_t version);
  const char *(*get_version)(void);
};

static const void *get_api(uint32_t version) {
  (void)version;
  return NULL;
}

static const char *get_version(void) { return "1.4.0"; }

const struct base *OrtGetApiBase(void);

const struct base *OrtGetApiBase(void) {
  static const struct base base = {get_api, get_version};
  return &base;
}
