// How long one picture or sentence takes, from file, pixels or UTF-8 to its vector, and where the time goes.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "cli.h"

namespace clip_edge::cli {
namespace {

constexpr size_t kMostSamples = 20000;
constexpr int kWarmUps = 3;
constexpr int kWidth = 640, kHeight = 480;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Samples {
  std::vector<double> total, decode, prepare, encode;  // seconds
};

// Between the two nearest samples, as NumPy does. NaN where fewer than `needed` are there: too few say nothing.
double quantile(std::vector<double> samples, double q, size_t needed) {
  if (samples.size() < needed) return std::nan("");
  std::sort(samples.begin(), samples.end());
  const double at = q * static_cast<double>(samples.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, samples.size() - 1);
  return samples[low] + (at - static_cast<double>(low)) * (samples[high] - samples[low]);
}

double mean(const std::vector<double> &samples) {
  double sum = 0;
  for (double value : samples) sum += value;
  return sum / static_cast<double>(samples.size());
}

// run(i) embeds the i-th input. At least one sample, then as many as the budget allows.
Samples measure(Session &session, double budget_s, const std::function<void(size_t)> &run) {
  for (int i = 0; i < kWarmUps; i++) run(static_cast<size_t>(i));
  Samples samples;
  const Clock::time_point begin = Clock::now();
  do {
    const Clock::time_point start = Clock::now();
    run(samples.total.size());
    samples.total.push_back(seconds_since(start));
    const clip_edge_timings timings = session.timings();
    samples.decode.push_back(static_cast<double>(timings.decode_ns) * 1e-9);
    samples.prepare.push_back(static_cast<double>(timings.prepare_ns) * 1e-9);
    samples.encode.push_back(static_cast<double>(timings.encode_ns) * 1e-9);
  } while (seconds_since(begin) < budget_s && samples.total.size() < kMostSamples);
  return samples;
}

std::string cell(double seconds) { return std::isnan(seconds) ? "-" : format("%.2f", 1e3 * seconds); }

// One row of the table and of the data.
Json row(const char *tower, const Samples &samples, std::string &text) {
  const std::vector<double> &total = samples.total;
  const double p50 = quantile(total, 0.5, 1), p90 = quantile(total, 0.9, 10), p99 = quantile(total, 0.99, 100);
  const double decode = quantile(samples.decode, 0.5, 1), prepare = quantile(samples.prepare, 0.5, 1);
  const double encode = quantile(samples.encode, 0.5, 1);
  text += format("%-6s %8zu %9s %9s %9s %10s %11s %10s\n", tower, total.size(), cell(p50).c_str(), cell(p90).c_str(),
                 cell(p99).c_str(), cell(decode).c_str(), cell(prepare).c_str(), cell(encode).c_str());
  const Json latency(Table{{"p50", p50},
                           {"p90", p90},
                           {"p99", p99},
                           {"mean", mean(total)},
                           {"min", *std::min_element(total.begin(), total.end())},
                           {"max", *std::max_element(total.begin(), total.end())}});
  return Table{{"tower", tower},
               {"samples", static_cast<int64_t>(total.size())},
               {"latency_s", latency},
               {"samples_s", List(total.begin(), total.end())},
               {"stages_s", Table{{"decode", decode}, {"prepare", prepare}, {"encode", encode}}},
               {"throughput_per_s", 1 / mean(total)}};
}

std::vector<Picture> workload(const Options &options) {
  std::vector<Picture> pictures;
  for (const std::string &path : options.images) pictures.push_back(read_picture(path, options));
  if (!pictures.empty()) return pictures;
  Picture made{std::vector<uint8_t>(size_t{3} * kWidth * kHeight), {}};
  for (size_t i = 0; i < made.pixels.size(); i++) made.pixels[i] = static_cast<uint8_t>(i * i % 251);
  made.image = image(made.pixels.data(), kWidth, kHeight);
  pictures.push_back(std::move(made));
  return pictures;
}

int64_t peak_memory_bytes() {
  struct rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  return usage.ru_maxrss;
#else
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
#endif
}

}  // namespace

Outcome run_bench(const Options &options) {
  const std::vector<Picture> pictures = workload(options);
  const std::vector<std::string> texts =
      options.texts.empty() ? std::vector<std::string>{"a photo of a red apple on a table"} : options.texts;
  const Clock::time_point start = Clock::now();
  const Model model = open_model(options, options.precision);
  Session session(model);
  const auto see = [&](size_t i) { session.embed(std::vector<clip_edge_image>{pictures[i % pictures.size()].image}); };
  const auto read = [&](size_t i) { session.embed(std::vector<std::string_view>{texts[i % texts.size()]}); };
  see(0);
  const double first_image_s = seconds_since(start);
  Outcome outcome;
  outcome.text = format("%-6s %8s %9s %9s %9s %10s %11s %10s\n", "tower", "samples", "p50 ms", "p90 ms", "p99 ms",
                        "decode ms", "prepare ms", "encode ms");
  List rows;
  rows.push_back(row("image", measure(session, options.budget_s, see), outcome.text));
  rows.push_back(row("text", measure(session, options.budget_s, read), outcome.text));
  const int64_t memory = peak_memory_bytes();
  outcome.text += format("opening and first picture %.1f ms, peak memory %.1f MB, %s\n", 1e3 * first_image_s,
                         static_cast<double>(memory) / 1e6,
                         options.images.empty() ? "a generated picture of 640 x 480" : "given pictures");
  outcome.data = Table{{"bundle", options.bundle},
                       {"backend", options.backend},
                       {"precision", options.precision.empty() ? Json() : Json(options.precision)},
                       {"threads", options.threads == 0 ? Json() : Json(options.threads)},
                       {"image", options.images.empty() ? "generated, 640 x 480" : "given"},
                       {"first_image_s", first_image_s},
                       {"memory_rss_bytes", memory},
                       {"results", rows}};
  return outcome;
}

}  // namespace clip_edge::cli
