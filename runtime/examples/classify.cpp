// The same as classify.c, on a grey test frame, in C++: classify BUNDLE LABEL...
#include <clip_edge/clip_edge.hpp>
#include <cstdlib>
#include <iostream>

int main(int argc, char **argv) {
  if (argc < 3) {
    std::cerr << "usage: classify BUNDLE LABEL...\n";
    return 2;
  }
  try {
    clip_edge_model_options options;
    clip_edge_model_options_init(&options, sizeof(options));
    options.onnxruntime = std::getenv("ONNXRUNTIME_LIBRARY");
    clip_edge::Session session{clip_edge::Model(argv[1], &options)};
    const std::vector<std::string> labels(argv + 2, argv + argc);
    const std::vector<uint8_t> frame(640 * 480, 128);  // NV12, BGRA, strides, rotation: see clip_edge_image
    const auto image = clip_edge::image(frame.data(), 640, 480, CLIP_EDGE_PIXELS_GREY);
    const std::vector<float> shares = session.classify(session.prompts(labels, {"a photo of {}"}), image);
    for (size_t i = 0; i < labels.size(); i++) std::cout << shares[i] << "  " << labels[i] << "\n";
  } catch (const clip_edge::Error &problem) {
    std::cerr << clip_edge_status_name(problem.status()) << ": " << problem.what() << "\n";
    return 1;
  }
}
