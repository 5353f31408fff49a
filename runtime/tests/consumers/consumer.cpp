// A C++17 program that uses the installed library through its wrapper.
#include <clip_edge/clip_edge.hpp>

int main() {
  try {
    clip_edge::Model model("/nowhere");
  } catch (const clip_edge::Error &error) {
    return error.status() == CLIP_EDGE_ERROR_IO ? 0 : 1;
  }
  return 2;
}
