// A whole bundle: engines that are missing or wrong, too little memory, many threads, many embeddings. Needs
// CLIP_EDGE_TEST_BUNDLE (a folder) and ONNXRUNTIME_LIBRARY (a file): without them the test is skipped.
// CLIP_EDGE_TEST_SECONDS sets how long the threads work, CLIP_EDGE_TEST_EMBEDDINGS how much is embedded.
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
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

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // their own memory hides what the library does with it
#else
constexpr bool kSanitized = false;
#endif

clip_edge_model_options options_with(const char *engine) {
  clip_edge_model_options options;
  clip_edge_model_options_init(&options, sizeof(options));
  options.onnxruntime = engine;
  options.threads = 1;
  return options;
}

// Opens everything and embeds once; the text is the library's own.
clip_edge_status load(const char *folder, const char *engine) {
  const clip_edge_model_options options = options_with(engine);
  clip_edge_model *model = nullptr;
  clip_edge_session *session = nullptr;
  std::vector<float> out(65536);
  const char *const texts[] = {"a red apple"};
  clip_edge_status status = clip_edge_model_open(folder, &options, &model);
  if (status == CLIP_EDGE_OK) status = clip_edge_model_load(model, CLIP_EDGE_LOAD_IMAGE | CLIP_EDGE_LOAD_TEXT);
  if (status == CLIP_EDGE_OK) status = clip_edge_session_new(model, &session);
  if (status == CLIP_EDGE_OK) status = clip_edge_embed_texts(session, texts, nullptr, 1, out.data(), out.size());
  clip_edge_session_free(session);
  clip_edge_model_free(model);
  return status;
}

void wrong_engines_are_told(const char *folder) {
  CHECK(load(folder, "/nowhere/libonnxruntime.so") == CLIP_EDGE_ERROR_BACKEND);
  CHECK(std::string(clip_edge_last_error()).find("ONNX Runtime cannot be opened: /nowhere/") == 0);
  CHECK(load(folder, CLIP_EDGE_NO_ENGINE) == CLIP_EDGE_ERROR_BACKEND);
  CHECK_TEXT(clip_edge_last_error(), CLIP_EDGE_NO_ENGINE ": not a library of ONNX Runtime");
  CHECK(load(folder, CLIP_EDGE_OLD_ENGINE) == CLIP_EDGE_ERROR_VERSION);
  CHECK_TEXT(clip_edge_last_error(), "ONNX Runtime 1.11 or later is needed; found 1.4.0");
  clip_edge_model_options options = options_with(nullptr);
  options.precision = "int3";
  clip_edge_model *model = nullptr;
  CHECK(clip_edge_model_open(folder, &options, &model) == CLIP_EDGE_OK);
  CHECK(clip_edge_model_load(model, CLIP_EDGE_LOAD_IMAGE) == CLIP_EDGE_ERROR_UNSUPPORTED);
  CHECK(clip_edge_model_load(model, 8) == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  clip_edge_model_free(model);
}

size_t memory_bytes(int column) {
  size_t pages[2] = {0, 0};  // of the address space, and resident
  std::ifstream("/proc/self/statm") >> pages[0] >> pages[1];
  return pages[column] * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// Whether the system keeps a process to its limit: qemu's user mode does not.
bool limits_hold() {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    struct rlimit limit;
    limit.rlim_cur = limit.rlim_max = memory_bytes(0);
    setrlimit(RLIMIT_AS, &limit);
    _exit(mmap(nullptr, size_t{64} << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? 0 : 1);
  }
  int how = 0;
  return child > 0 && waitpid(child, &how, 0) == child && WIFEXITED(how) && WEXITSTATUS(how) == 0;
}

// In processes of their own, with more and more room: each ends by itself, with a status and a text. `mapped`: the
// engine's library has its place already, so that memory ends while the bundle is read.
void too_little_memory_is_told(const char *folder, const char *engine, bool mapped) {
  int refused = 0, worked = 0;
  for (size_t room = size_t{1} << 18; room <= size_t{1} << 30; room += room / 4) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      if (mapped) dlopen(engine, RTLD_NOW | RTLD_LOCAL);
      struct rlimit limit;
      limit.rlim_cur = limit.rlim_max = memory_bytes(0) + room;
      setrlimit(RLIMIT_AS, &limit);
      const clip_edge_status status = load(folder, engine);
      const bool told = status == CLIP_EDGE_ERROR_BACKEND || status == CLIP_EDGE_ERROR_OUT_OF_MEMORY;
      _exit(status == CLIP_EDGE_OK ? 0 : told && clip_edge_last_error()[0] != '\0' ? 1 : 2);
    }
    int how = 0;
    CHECK(child > 0 && waitpid(child, &how, 0) == child);
    CHECK(WIFEXITED(how) && WEXITSTATUS(how) < 2);
    if (!WIFEXITED(how)) std::printf("%7zu kB: ended by signal %d\n", room >> 10, WTERMSIG(how));
    refused += WIFEXITED(how) && WEXITSTATUS(how) == 1;
    worked += WIFEXITED(how) && WEXITSTATUS(how) == 0;
  }
  CHECK(refused > 0 && worked > 0);
  std::printf("too little memory: refused %d times, then enough %d times\n", refused, worked);
}

void memory_does_not_grow(const clip_edge::Model &model, int count) {
  clip_edge::Session session(model);
  std::vector<uint8_t> pixels(80 * 60 * 3, 99);
  const auto embed = [&](int i) {
    pixels[static_cast<size_t>(i) % pixels.size()]++;
    session.embed({clip_edge::image(pixels.data(), 80, 60)});
    session.embed(std::vector<std::string_view>{std::string_view("a red apple, a cat and a dog").substr(i % 20)});
  };
  const int warm = std::max(count / 20, 100);  // 2 embeddings a round
  for (int i = 0; i < warm; i++) embed(i);
  const size_t before = memory_bytes(1);
  for (int i = warm; i < count / 2; i++) embed(i);
  const size_t after = memory_bytes(1);
  std::printf("%d embeddings: %.2f MB resident after %d, %.2f MB after all\n", count,
              static_cast<double>(before) / 1e6, 2 * warm, static_cast<double>(after) / 1e6);
  CHECK(kSanitized || after <= before + (size_t{1} << 20));
}

int number_from(const char *name, int otherwise) {
  const char *text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

}  // namespace

int main() {
  const char *folder = std::getenv("CLIP_EDGE_TEST_BUNDLE"), *engine = std::getenv("ONNXRUNTIME_LIBRARY");
  if (folder == nullptr || engine == nullptr) {
    std::printf("skipped: CLIP_EDGE_TEST_BUNDLE and ONNXRUNTIME_LIBRARY are not set\n");
    return 77;
  }
  wrong_engines_are_told(folder);
  for (const bool mapped : {false, true})
    if (!kSanitized && limits_hold()) too_little_memory_is_told(folder, engine, mapped);
  const clip_edge_model_options options = options_with(engine);
  const clip_edge::Model model(folder, &options);
  CHECK(clip_edge_model_check(model.get()) == CLIP_EDGE_OK);
  CHECK(model.verify().passed == 1);
  threads_share_a_model(model, 16, number_from("CLIP_EDGE_TEST_SECONDS", 2));
  memory_does_not_grow(model, number_from("CLIP_EDGE_TEST_EMBEDDINGS", 2000));
  return finish();
}
