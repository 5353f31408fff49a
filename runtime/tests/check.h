// The smallest test harness that says where and what: CHECK counts, main returns the number of failures.
#pragma once

#include <cstdio>
#include <string>

inline int failures = 0;
inline int checks = 0;

#define CHECK(condition)                                                  \
  do {                                                                    \
    checks++;                                                             \
    if (!(condition)) {                                                   \
      failures++;                                                         \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                     \
  } while (0)

inline void check_text(const char *file, int line, const std::string &found, const std::string &expected) {
  checks++;
  if (found == expected) return;
  failures++;
  std::printf("%s:%d: expected `%s`\n  found `%s`\n", file, line, expected.c_str(), found.c_str());
}
#define CHECK_TEXT(found, expected) check_text(__FILE__, __LINE__, found, expected)

inline int finish() {
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}
