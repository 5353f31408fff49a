#include <algorithm>

#include "cli.h"

namespace clip_edge::cli {

Outcome run_outline(const Options &options) {
  const Picture picture = read_picture(options.images[0], options);
  const Model model = open_model(options, options.precision);
  Session session(model);
  std::vector<float> points = options.points;
  points.insert(points.end(), options.beside.begin(), options.beside.end());
  std::vector<uint8_t> inside(options.points.size() / 2, 1);
  inside.resize(points.size() / 2, 0);
  clip_edge_prompt prompt;
  clip_edge_prompt_init(&prompt, sizeof(prompt));
  prompt.has_box = options.box.empty() ? 0 : 1;
  std::copy(options.box.begin(), options.box.end(), prompt.box);
  prompt.points = points.data(), prompt.inside = inside.data(), prompt.point_count = inside.size();
  const View view = session.look(picture.image);
  const Outline found = session.outline(view, prompt);
  const clip_edge_view_info info = view.info();
  std::string file = format("P5\n%d %d\n255\n", static_cast<int>(info.width), static_cast<int>(info.height));
  file.append(found.mask.begin(), found.mask.end());
  write_file(options.out, file);
  const auto inside_count = std::count(found.mask.begin(), found.mask.end(), uint8_t{255});
  Outcome outcome;
  outcome.data = Table{{"input", options.images[0]},
                       {"mask", options.out},
                       {"width", info.width},
                       {"height", info.height},
                       {"pixels", static_cast<int>(inside_count)},
                       {"iou", static_cast<double>(found.iou)}};
  outcome.text = format("%s: %d of %d x %d pixels, expected IoU %.2f\n", options.out.c_str(),
                        static_cast<int>(inside_count), static_cast<int>(info.width), static_cast<int>(info.height),
                        static_cast<double>(found.iou));
  return outcome;
}

}  // namespace clip_edge::cli
