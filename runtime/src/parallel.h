// The same work for many items, on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace clip_edge::core {

// work(i) for every i below `count`, on the caller's thread and up to `threads` - 1 others: fewer where the system has
// none left. When one fails, no further ones are begun, and the error of the lowest i is thrown once all threads ended.
template <class Work>
void share_out(size_t count, size_t threads, Work work) {
  std::atomic<size_t> next{0}, failed{count};
  std::mutex mutex;
  std::exception_ptr error;
  const auto take = [&] {
    for (size_t i; failed == count && (i = next++) < count;) {
      try {
        work(i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (i < failed) failed = i, error = std::current_exception();
      }
    }
  };
  std::vector<std::thread> helpers;
  try {
    for (size_t i = 1; i < std::min(threads, count); i++) helpers.emplace_back(take);
  } catch (const std::exception &) {  // no more threads, or no memory for one
  }
  take();
  for (std::thread &helper : helpers) helper.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace clip_edge::core
