include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS clip_edge EXPORT clip_edge-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/runtime/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT clip_edge-targets NAMESPACE clip_edge:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/clip_edge)

configure_package_config_file(cmake/clip_edge-config.cmake.in clip_edge-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/clip_edge)
write_basic_package_version_file(clip_edge-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/clip_edge-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/clip_edge-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/clip_edge)

configure_file(cmake/clip_edge.pc.in clip_edge.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/clip_edge.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
