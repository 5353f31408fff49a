// A whole bundle from many threads. Needs CLIP_EDGE_TEST_BUNDLE (a folder) and ONNXRUNTIME_LIBRARY (a file): without
// them the test is skipped. CLIP_EDGE_TEST_SECONDS sets how long the threads work.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "check.h"
#include "clip_edge/clip_edge.hpp"

namespace {

std::atomic<int> different{0}, done{0};

void work(const clip_edge::Model &model, const std::vector<float> &image_expected,
          const std::vector<float> &text_expected, const std::vector<uint8_t> &pixels,
          std::chrono::steady_clock::time_point end) {
  clip_edge::Session session(model);
  do {
    different += session.embed({clip_edge::image(pixels.data(), 80, 60)}) != image_expected;
    different += session.embed(std::vector<std::string_view>{"a red apple", ""}) != text_expected;
    done++;
  } while (std::chrono::steady_clock::now() < end);
}

void threads_share_a_model(const clip_edge::Model &model, int count, double seconds) {
  std::vector<uint8_t> pixels(80 * 60 * 3);
  for (size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<uint8_t>(i * 7 % 251);
  clip_edge::Session first(model);
  const std::vector<float> image = first.embed({clip_edge::image(pixels.data(), 80, 60)});
  const std::vector<float> text = first.embed(std::vector<std::string_view>{"a red apple", ""});
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                                          std::chrono::duration<double>(seconds));
  std::vector<std::thread> threads;
  for (int i = 0; i < count; i++) threads.emplace_back([&] { work(model, image, text, pixels, end); });
  for (std::thread &thread : threads) thread.join();
  CHECK(different == 0);
  CHECK(done >= count);
  std::printf("%d rounds on %d threads\n", done.load(), count);
}

}  // namespace

int main() {
  const char *folder = std::getenv("CLIP_EDGE_TEST_BUNDLE"), *engine = std::getenv("ONNXRUNTIME_LIBRARY");
  if (folder == nullptr || engine == nullptr) {
    std::printf("skipped: CLIP_EDGE_TEST_BUNDLE and ONNXRUNTIME_LIBRARY are not set\n");
    return 77;
  }
  const char *seconds = std::getenv("CLIP_EDGE_TEST_SECONDS");
  clip_edge_model_options options;
  clip_edge_model_options_init(&options, sizeof(options));
  options.onnxruntime = engine;
  options.threads = 1;
  const clip_edge::Model model(folder, &options);
  CHECK(clip_edge_model_check(model.get()) == CLIP_EDGE_OK);
  CHECK(model.verify().passed == 1);
  threads_share_a_model(model, 16, seconds == nullptr ? 2.0 : std::atof(seconds));
  return finish();
}
